#include "daemon/trace/import.h"

#include "absl/strings/str_format.h"
#include "daemon/trace/mapped_file.h"
#include "daemon/trace/output_file.h"
#include "daemon/trace/trace_files.h"
#include "protocol/check_plan.h"
#include "protocol/npy.h"

namespace ultraep::trace {

void Spread(uint64_t count, uint32_t ranks, uint32_t experts, uint32_t expert, uint32_t* matrix) {
  for (uint32_t r = 0; r < ranks; ++r)
    matrix[uint64_t{r} * experts + expert] = uint32_t(count / ranks + (r < count % ranks));
}

std::string ImportShape(const ImportOptions& options, uint64_t experts, PlanShape* shape) {
  if (options.ranks == 0) return "--ranks is missing: give the ranks of the EP group, 1..512";
  if (options.experts != 0 && experts > options.experts)
    return absl::StrFormat("the file has expert %d, --experts is %d", experts - 1, options.experts);
  if (options.experts != 0) experts = options.experts;
  if (experts > kMaxExperts)
    return absl::StrFormat("%d experts, the limit is %d", experts, kMaxExperts);
  *shape = {options.ranks, uint32_t(experts), options.slots, 0};
  if (options.experts == 0) shape->experts = uint32_t(RoundUp(experts, options.ranks));
  return CheckShape(*shape);
}

std::string ImportWriter::Create(const ImportOptions& options, const PlanShape& shape,
                                 uint32_t layers, const std::string& source) {
  TraceInfo info;
  info.group = "imported";
  info.shape = shape_ = shape;
  info.layers = layers;
  info.slot_sets = 1;
  info.source = source;
  return writer_.Create(options.directory, info, {}, options.force);
}

std::string ImportWriter::Add(uint64_t step, uint32_t layer, const uint32_t* matrix) {
  const LoadView load{matrix, shape_.ranks, shape_.experts};
  for (uint32_t r = 0; r < shape_.ranks; ++r)
    if (const uint64_t sum = RowTokens(load.row(r), shape_.experts); sum > kMaxRowTokens)
      return absl::StrFormat(
          "step %d, layer %d: rank %d has %d tokens, the limit is %d; give more "
          "--ranks",
          step, layer, r, sum, kMaxRowTokens);
  StepRow row;
  CountLoad(shape_, load, &row);
  if (row.tokens == 0) {
    ++empty_;
    return "";
  }
  row.sequence = int64_t(writer_.steps());
  row.layer = layer;
  row.microbatch = int64_t(step);
  return writer_.Add(row, load, {});
}

std::string ImportWriter::Finish(ImportResult* result) {
  const std::string wrong = writer_.Flush();
  result->info = *writer_.info();
  result->empty = empty_;
  finished_ = wrong.empty();
  return wrong;
}

namespace {

std::string CheckCounts(const NpyArray& counts) {
  const std::vector<uint64_t>& shape = counts.shape;
  if (shape.size() != 2 && shape.size() != 3)
    return absl::StrFormat(
        "the array has %d dimensions, shape %s; needed are [layers, experts] or [steps, layers, "
        "experts]",
        shape.size(), ShapeText(shape));
  if (counts.cells == 0) return "the array is empty, shape " + ShapeText(shape);
  if (shape[shape.size() - 2] > UINT32_MAX || shape.back() > kMaxExperts)
    return absl::StrFormat("shape %s has more than %d experts or 2^32 layers", ShapeText(shape),
                           kMaxExperts);
  return "";
}

}  // namespace

std::string ImportCounts(const std::string& path, const ImportOptions& options,
                         ImportResult* result) {
  MappedFile file;
  NpyArray counts;
  std::string wrong = CheckOutputs({path}, FilesIn(options.directory));
  if (wrong.empty()) wrong = file.Open(path);
  if (!wrong.empty()) return wrong;
  wrong = ParseNpy(file.bytes(), &counts);
  if (wrong.empty()) wrong = CheckCounts(counts);
  if (!wrong.empty()) return path + ": " + wrong;
  const uint64_t experts = counts.shape.back();
  const uint64_t layers = counts.shape[counts.shape.size() - 2];
  PlanShape shape;
  if (wrong = ImportShape(options, experts, &shape); !wrong.empty()) return path + ": " + wrong;
  ImportWriter writer;
  if (wrong = writer.Create(options, shape, uint32_t(layers), "import sglang"); !wrong.empty())
    return wrong;
  std::vector<uint32_t> matrix(uint64_t{shape.ranks} * shape.experts, 0);
  const uint64_t limit = uint64_t{shape.ranks} * UINT32_MAX;
  for (uint64_t row = 0; row < counts.cells / experts; ++row) {
    for (uint64_t e = 0; e < experts; ++e) {
      const int64_t count = counts.at(row * experts + e);
      if (count < 0 || uint64_t(count) > limit)
        return absl::StrFormat("%s: step %d, layer %d, expert %d has the count %d, must be 0..%d",
                               path, row / layers, row % layers, e, count, limit);
      Spread(uint64_t(count), shape.ranks, shape.experts, uint32_t(e), matrix.data());
    }
    if (wrong = writer.Add(row / layers, uint32_t(row % layers), matrix.data()); !wrong.empty())
      return path + ": " + wrong;
  }
  return writer.Finish(result);
}

}  // namespace ultraep::trace

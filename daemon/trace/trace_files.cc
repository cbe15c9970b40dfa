#include "daemon/trace/trace_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "daemon/trace/trace_writer.h"
#include "protocol/operator_messages.h"
#include "protocol/verdict_board.h"

namespace ultraep::trace {

std::string ShapeText(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (const uint64_t n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

std::string TraceFiles::Open(const std::string& path) {
  path_ = path;
  struct stat s;
  if (stat(path.c_str(), &s)) return path + ": cannot be read: " + std::strerror(errno);
  recorded_ = S_ISDIR(s.st_mode);
  return recorded_ ? OpenDirectory(path) : OpenLoads(path);
}

std::vector<std::string> TraceFiles::files() const {
  return recorded_ ? FilesIn(path_) : std::vector<std::string>{path_};
}

// A recorder may be at work, or was killed: `growing` files may have less or more cells than their
// header says, and what is whole of both counts.
std::string TraceFiles::OpenArray(const std::string& path, bool growing, Array* array) {
  if (std::string wrong = array->file.Open(path); !wrong.empty()) return wrong;
  const std::string wrong = ParseNpy(array->file.bytes(), &array->npy);
  const bool header_read = array->npy.data != nullptr;
  if (!wrong.empty() && !(growing && header_read)) return path + ": " + wrong;
  const std::vector<uint64_t>& shape = array->npy.shape;
  if (shape.size() < 2 || shape.size() > 4)
    return absl::StrFormat("%s: the array has %d dimensions, shape %s; needed are 2 to 4", path,
                           shape.size(), ShapeText(shape));
  for (size_t i = 1; i < shape.size(); ++i) {
    if (shape[i] == 0 || shape[i] > UINT32_MAX)
      return absl::StrFormat("%s: dimension %d of shape %s must be 1..%d", path, i,
                             ShapeText(shape), UINT32_MAX);
    if (array->row_cells > (uint64_t{1} << 40) / shape[i])
      return absl::StrFormat("%s: rows of shape %s are too large", path, ShapeText(shape));
    array->row_cells *= shape[i];
  }
  const uint64_t cells =
      array->file.bytes().size() -
      uint64_t(reinterpret_cast<const char*>(array->npy.data) - array->file.bytes().data());
  array->rows = std::min(shape[0], cells / (array->row_cells * array->npy.cell_bytes()));
  return "";
}

std::string TraceFiles::OpenDirectory(const std::string& path) {
  const std::string base = path + "/";
  MappedFile text;
  if (std::string wrong = text.Open(base + kInfoFile); !wrong.empty())
    return wrong + "; a trace directory is what `ultraepctl trace record` makes";
  if (std::string wrong = info_.FromJson(text.bytes()); !wrong.empty())
    return base + kInfoFile + ": " + wrong;
  std::string wrong = OpenArray(base + kLoadsFile, true, &loads_);
  if (wrong.empty()) wrong = OpenArray(base + kStepsFile, true, &step_rows_);
  if (wrong.empty()) wrong = OpenArray(base + kReplicasFile, true, &replicas_);
  if (wrong.empty()) wrong = CheckShapes();
  if (!wrong.empty()) return wrong;
  said_ = info_.steps;
  info_.steps = std::min(loads_.rows, step_rows_.rows);
  DropUnfinished();
  return "";
}

std::string TraceFiles::CheckShapes() {
  const auto check = [this](const char* file, const Array& array, NpyType type,
                            const std::vector<uint64_t>& row) -> std::string {
    std::vector<uint64_t> need = {array.npy.shape[0]};
    need.insert(need.end(), row.begin(), row.end());
    if (array.npy.shape == need && array.npy.type == type) return "";
    return absl::StrFormat("%s/%s: its shape is %s, trace.json asks for %s of %s", path_, file,
                           ShapeText(array.npy.shape), ShapeText(need),
                           type == NpyType::kInt64 ? "<i8" : "<u4");
  };
  const PlanShape& s = info_.shape;
  std::string wrong = check(kLoadsFile, loads_, NpyType::kUint32, {s.ranks, s.experts});
  if (wrong.empty()) wrong = check(kStepsFile, step_rows_, NpyType::kInt64, {16});
  if (wrong.empty()) wrong = check(kReplicasFile, replicas_, NpyType::kInt64, {6});
  return wrong;
}

// Steps whose replicas had not come to the disk yet.
void TraceFiles::DropUnfinished() {
  while (info_.steps > 0) {
    const StepRow row = RawRow(info_.steps - 1);
    const auto end = absl::uint128(uint64_t(row.first_replica)) + uint64_t(row.replicas);
    if (row.first_replica < 0 || row.replicas < 0 || end <= replicas_.rows) break;
    --info_.steps;
  }
}

std::string TraceFiles::OpenLoads(const std::string& path) {
  if (std::string wrong = OpenArray(path, false, &loads_); !wrong.empty()) return wrong;
  std::vector<uint64_t> shape = loads_.npy.shape;
  const uint64_t ranks = shape[shape.size() - 2], experts = shape.back();
  info_.shape.ranks = uint32_t(std::min<uint64_t>(ranks, UINT32_MAX));
  info_.shape.experts = uint32_t(experts);
  if (std::string wrong = CheckShape(info_.shape); !wrong.empty())
    return absl::StrFormat("%s: shape %s: %s", path, ShapeText(shape), wrong);
  loads_.row_cells = ranks * experts;
  info_.steps = loads_.npy.cells / loads_.row_cells;
  layers_per_step_ = shape.size() == 4 ? shape[1] : 1;
  info_.layers = uint32_t(layers_per_step_);
  info_.source = "loads alone";
  return "";
}

std::string TraceFiles::Wrong(uint64_t step, const std::string& what) const {
  return absl::StrFormat("%s: step %d: %s", path_, step, what);
}

StepRow TraceFiles::RawRow(uint64_t step) const {
  StepRow row;
  int64_t cells[16];
  for (uint64_t i = 0; i < 16; ++i) cells[i] = step_rows_.npy.at(step * 16 + i);
  std::memcpy(&row, cells, sizeof row);
  return row;
}

std::string TraceFiles::Row(uint64_t step, StepRow* row) {
  if (!recorded_) {
    TraceStep all;
    if (std::string wrong = Read(step, &all); !wrong.empty()) return wrong;
    *row = all.row;
    return "";
  }
  *row = RawRow(step);
  for (const int64_t value :
       {row->sequence, row->layer, row->microbatch, row->tokens, row->peak_before, row->peak,
        row->lower_bound, row->solve_ns, row->time_ns, row->generation})
    if (value < 0) return Wrong(step, absl::StrFormat("%s has the number %d", kStepsFile, value));
  if (row->layer >= int64_t{info_.layers})
    return Wrong(step, absl::StrFormat("layer is %d, must be below %d", row->layer, info_.layers));
  if (row->verdict < 0 || row->verdict > int64_t(Verdict::kFailed))
    return Wrong(step, absl::StrFormat("verdict is %d, must be 0..4", row->verdict));
  if (row->reason < 0 || row->reason > int64_t(FallbackReason::kBadRow))
    return Wrong(step, absl::StrFormat("reason is %d, must be 0..3", row->reason));
  if (row->lower_bound > row->peak || row->peak > row->peak_before ||
      row->peak_before > row->tokens)
    return Wrong(step,
                 absl::StrFormat("lower_bound %d, peak %d, peak_before %d and tokens %d must rise",
                                 row->lower_bound, row->peak, row->peak_before, row->tokens));
  const uint64_t most = uint64_t{shape().ranks} * shape().slots;
  if (row->replicas < 0 || uint64_t(row->replicas) > most || row->first_replica < 0 ||
      uint64_t(row->first_replica) > replicas_.rows ||
      uint64_t(row->replicas) > replicas_.rows - uint64_t(row->first_replica))
    return Wrong(step, absl::StrFormat("has %d replicas from row %d on; there are %d rows and %d "
                                       "slots",
                                       row->replicas, row->first_replica, replicas_.rows, most));
  return "";
}

std::string TraceFiles::CopyTokens(uint64_t step, std::vector<uint32_t>* tokens) const {
  tokens->resize(loads_.row_cells);
  const uint64_t first = step * loads_.row_cells;
  if (loads_.npy.type == NpyType::kUint32)
    std::memcpy(tokens->data(), loads_.npy.data + first * 4, loads_.row_cells * 4);
  for (uint64_t i = 0; i < loads_.row_cells && loads_.npy.type != NpyType::kUint32; ++i) {
    const int64_t value = loads_.npy.at(first + i);
    if (value < 0 || value > int64_t{UINT32_MAX})
      return Wrong(step,
                   absl::StrFormat("rank %d, expert %d has %d tokens, allowed are 0..%d",
                                   i / shape().experts, i % shape().experts, value, UINT32_MAX));
    (*tokens)[i] = uint32_t(value);
  }
  for (uint32_t r = 0; r < shape().ranks; ++r) {
    const uint64_t sum = RowTokens(tokens->data() + uint64_t{r} * shape().experts, shape().experts);
    if (sum > kMaxRowTokens)
      return Wrong(
          step, absl::StrFormat("rank %d has %d tokens, the limit is %d", r, sum, kMaxRowTokens));
  }
  return "";
}

std::string TraceFiles::CopyReplicas(uint64_t number, const StepRow& row,
                                     std::vector<Replica>* replicas) const {
  replicas->clear();
  for (int64_t i = 0; i < row.replicas; ++i) {
    const uint64_t cell = uint64_t(row.first_replica + i) * 6;
    int64_t v[6];
    for (uint64_t k = 0; k < 6; ++k) v[k] = replicas_.npy.at(cell + k);
    if (v[0] < 0 || uint64_t(v[0]) != number)
      return absl::StrFormat("replica %d is said to be of step %d", i, v[0]);
    if (v[1] < 0 || v[1] > UINT32_MAX || v[2] < 0 || v[2] > UINT16_MAX || v[3] < 0 ||
        v[3] > UINT16_MAX || v[4] < -1 || v[4] > INT32_MAX || v[5] < 0)
      return absl::StrFormat("replica %d has a number that no replica can have", i);
    Replica replica;
    replica.expert = uint32_t(v[1]);
    replica.rank = uint16_t(v[2]);
    replica.slot = uint16_t(v[3]);
    replica.parent = int32_t(v[4]);
    replica.tokens = uint64_t(v[5]);
    replicas->push_back(replica);
  }
  return "";
}

std::string TraceFiles::Read(uint64_t step, TraceStep* out) {
  out->replicas.clear();
  if (std::string wrong = CopyTokens(step, &out->tokens); !wrong.empty()) return wrong;
  const LoadView load = out->load(shape());
  out->expert_tokens.assign(shape().experts, 0);
  for (uint32_t r = 0; r < shape().ranks; ++r)
    for (uint32_t e = 0; e < shape().experts; ++e) out->expert_tokens[e] += load.at(r, e);
  StepRow counted;
  CountLoad(shape(), load, &counted);
  if (!recorded_) {
    out->row = counted;
    out->row.sequence = int64_t(step);
    out->row.layer = int64_t(step % layers_per_step_);
    out->row.microbatch = int64_t(step / layers_per_step_);
    return "";
  }
  if (std::string wrong = Row(step, &out->row); !wrong.empty()) return wrong;
  if (out->row.tokens != counted.tokens || out->row.peak_before != counted.peak_before)
    return Wrong(step, absl::StrFormat("%d tokens and peak_before %d in steps.npy, %d and %d in "
                                       "loads.npy",
                                       out->row.tokens, out->row.peak_before, counted.tokens,
                                       counted.peak_before));
  if (std::string wrong = CopyReplicas(step, out->row, &out->replicas); !wrong.empty())
    return Wrong(step, wrong);
  const PlanFault fault =
      checker_.Check(shape(), out->replicas, [out](uint32_t e) { return out->expert_tokens[e]; });
  if (fault) return Wrong(step, fault.text());
  RankTokens(shape(), *out, &before_, &after_);
  const uint64_t peak = *std::max_element(after_.begin(), after_.end());
  if (peak == uint64_t(out->row.peak)) return "";
  return Wrong(step, absl::StrFormat("its peak is %d in steps.npy, %d by its load and replicas",
                                     out->row.peak, peak));
}

void RankTokens(const PlanShape& shape, const TraceStep& step, std::vector<uint64_t>* before,
                std::vector<uint64_t>* after) {
  before->assign(shape.ranks, 0);
  for (uint32_t e = 0; e < shape.experts; ++e) (*before)[shape.home(e)] += step.expert_tokens[e];
  *after = *before;
  for (const Replica& r : step.replicas) {
    (*after)[shape.home(r.expert)] -= r.tokens;
    (*after)[r.rank] += r.tokens;
  }
}

}  // namespace ultraep::trace

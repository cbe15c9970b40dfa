#include "daemon/trace/convert.h"

#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "daemon/trace/output_file.h"
#include "daemon/trace/trace_writer.h"
#include "protocol/npy.h"

namespace ultraep::trace {
namespace {

// The steps of whole rounds, round by round in the order they began.
std::string FindRounds(TraceFiles* trace, StepRange range, std::vector<uint64_t>* steps,
                       Converted* done) {
  struct Step {
    int64_t layer, microbatch, sequence, generation;
  };
  std::vector<Step> rows;
  std::set<int64_t> layers;
  for (uint64_t i = range.begin; i < range.end; ++i) {
    StepRow row;
    if (std::string wrong = trace->Row(i, &row); !wrong.empty()) return wrong;
    rows.push_back({row.layer, row.microbatch, row.sequence, row.generation});
    layers.insert(row.layer);
  }
  for (const int64_t layer : layers) done->layers.push_back(uint32_t(layer));
  std::map<int64_t, std::vector<uint64_t>> open;    // microbatch -> its round so far
  std::map<uint64_t, std::vector<uint64_t>> whole;  // first step -> round
  for (uint64_t i = 0; i < rows.size(); ++i) {
    const auto [layer, microbatch, sequence, generation] = rows[i];
    // Where steps are missing, what follows may be another pass of the same numbers.
    if (i > 0 && (generation != rows[i - 1].generation || sequence != rows[i - 1].sequence + 1))
      open.clear();
    std::vector<uint64_t>& round = open[microbatch];
    if (layer == *layers.begin()) round.clear();
    if (layer != int64_t{done->layers[round.size()]}) {
      open.erase(microbatch);
      continue;
    }
    round.push_back(range.begin + i);
    if (round.size() < layers.size()) continue;
    whole.emplace(round.front(), round);
    open.erase(microbatch);
  }
  for (const auto& [first, round] : whole) steps->insert(steps->end(), round.begin(), round.end());
  done->rounds = whole.size();
  done->steps = steps->size();
  done->left_out = range.end - range.begin - steps->size();
  return "";
}

}  // namespace

std::string ToNpy(TraceFiles* trace, StepRange range, const std::string& path, bool force,
                  Converted* done) {
  std::vector<uint64_t> steps;
  if (std::string wrong = FindRounds(trace, range, &steps, done); !wrong.empty()) return wrong;
  if (steps.empty())
    return "no whole round: no microbatch has all of the trace's layers in order, one after the "
           "other; give a larger part of the trace";
  OutputFile file;
  std::string wrong = CheckOutputs(trace->files(), {path});
  if (wrong.empty()) wrong = file.Open(path, force);
  if (!wrong.empty()) return wrong;
  const PlanShape& s = trace->shape();
  const std::string header =
      NpyHeader({done->rounds, done->layers.size(), s.ranks, s.experts}, "<u4");
  wrong = file.Write(header.data(), header.size());
  TraceStep step;
  for (size_t i = 0; i < steps.size() && wrong.empty(); ++i) {
    wrong = trace->Read(steps[i], &step);
    if (wrong.empty()) wrong = file.Write(step.tokens.data(), step.tokens.size() * 4);
  }
  return wrong.empty() ? file.Close() : wrong;
}

std::string ToCsv(TraceFiles* trace, StepRange range, const std::string& path, bool force,
                  bool by_rank, Converted* done) {
  OutputFile file;
  std::string wrong = CheckOutputs(trace->files(), {path});
  if (wrong.empty()) wrong = file.Open(path, force);
  if (!wrong.empty()) return wrong;
  std::string text = by_rank ? "step,layer,rank,expert,count\n" : "step,layer,expert,count\n";
  const PlanShape& s = trace->shape();
  TraceStep step;
  for (uint64_t i = range.begin; i < range.end && wrong.empty(); ++i) {
    if (wrong = trace->Read(i, &step); !wrong.empty()) break;
    for (uint32_t r = 0; r < s.ranks && by_rank; ++r)
      for (uint32_t e = 0; e < s.experts; ++e)
        if (const uint32_t count = step.load(s).at(r, e))
          absl::StrAppendFormat(&text, "%d,%d,%d,%d,%d\n", i, step.row.layer, r, e, count);
    for (uint32_t e = 0; e < s.experts && !by_rank; ++e)
      if (step.expert_tokens[e])
        absl::StrAppendFormat(&text, "%d,%d,%d,%d\n", i, step.row.layer, e, step.expert_tokens[e]);
    wrong = file.Write(text.data(), text.size());
    text.clear();
    ++done->steps;
  }
  return wrong.empty() ? file.Close() : wrong;
}

std::string ToDirectory(TraceFiles* trace, StepRange range, const std::string& path, bool force,
                        Converted* done) {
  std::error_code none;
  if (std::filesystem::equivalent(path, trace->path(), none))
    return path + ": is the trace that is read; choose another directory";
  TraceWriter writer;
  std::string wrong = CheckOutputs(trace->files(), FilesIn(path));
  if (wrong.empty()) wrong = writer.Create(path, trace->info(), {}, force);
  if (!wrong.empty()) return wrong;
  TraceStep step;
  for (uint64_t i = range.begin; i < range.end && wrong.empty(); ++i) {
    wrong = trace->Read(i, &step);
    if (wrong.empty()) wrong = writer.Add(step.row, step.load(trace->shape()), step.replicas);
    done->steps += wrong.empty();
  }
  const std::string last = writer.Flush();
  if (wrong.empty()) wrong = last;
  if (!wrong.empty()) writer.Discard();
  return wrong;
}

}  // namespace ultraep::trace

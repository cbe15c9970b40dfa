// A trace as something else: .npy for ultraep-replay, csv, or a part of it as a trace again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/trace/trace_files.h"

namespace ultraep::trace {

struct StepRange {
  uint64_t begin = 0, end = 0;  // of the trace's rows; `end` is the first one left out
};

struct Converted {
  uint64_t steps = 0;   // written
  uint64_t rounds = 0;  // .npy: whole passes over the layers
  std::vector<uint32_t> layers;
  uint64_t left_out = 0;  // .npy: steps of rounds that are not whole
};

// Texts are empty when all went well. An output that exists is replaced only with `force`.
//
// [rounds, layers, ranks, experts], uint32. A round has one step of every layer that occurs, in
// order and of one microbatch, and no step was missed meanwhile.
std::string ToNpy(TraceFiles* trace, StepRange range, const std::string& path, bool force,
                  Converted* done);
// step,layer,expert,count, or step,layer,rank,expert,count; no rows of zero tokens.
std::string ToCsv(TraceFiles* trace, StepRange range, const std::string& path, bool force,
                  bool by_rank, Converted* done);
std::string ToDirectory(TraceFiles* trace, StepRange range, const std::string& path, bool force,
                        Converted* done);

}  // namespace ultraep::trace

// The command line of ultraep-replay, checked.
#pragma once

#include <cstdint>
#include <string>

#include "plugin/examples/replay/experts.h"
#include "protocol/plan.h"

namespace ultraep::replay {

// Units, ranges, defaults and costs stand at the flags in options.cc.
struct Options {
  std::string trace;  // empty: the profile
  std::string profile;
  std::string socket;  // empty: the library's own choice
  PlanShape shape;
  ExpertShape expert;
  uint32_t layers, steps, tokens, top_k, window;
  uint64_t seed;
  uint32_t join_timeout_s, step_timeout_s;
  bool json, forever, respawn, train;

  // (step, layer) pairs, UINT64_MAX: until told to stop.
  uint64_t end_sequence() const { return forever ? UINT64_MAX : uint64_t{steps} * layers; }
};

// Prints and ends the process on --help (0) and on a wrong command line (2).
Options ParseOptions(int argc, char** argv);

// What a trace fixes. Refuses flags given on the command line that contradict it: empty text when
// there are none.
std::string FixToTrace(uint32_t steps, uint32_t layers, uint32_t ranks, uint32_t experts,
                       Options* options);

// Empty when the options fit together, else the value, its limit and what to do.
std::string CheckOptions(const Options& options);

}  // namespace ultraep::replay

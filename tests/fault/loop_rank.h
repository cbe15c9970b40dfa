// One rank of a kill loop: goes through steps for ever and checks every word it is given.
#pragma once

#include <cstdint>
#include <string>

#include "tests/fault/expected.h"
#include "tests/fault/shared_state.h"

namespace ultraep::test {

inline constexpr uint64_t kStepTimeoutNs = 10'000'000'000;

struct RankTask {
  SharedState* shared = nullptr;
  uint32_t group = 0, rank = 0;
  LoopConfig config;
  uint64_t seed = 0;
  std::string socket, group_name;
  std::string kill_at;  // a test point, with kill_pass; empty: none
  int64_t kill_pass = 0;
};

// The body of a forked rank process; ends by a signal, or with status 9 after a violation.
[[noreturn]] void RunRank(const RankTask& task);

// The body of the reader process: compares the outcomes of all ranks of all groups, for ever.
[[noreturn]] void RunReader(SharedState* shared, uint32_t groups, uint32_t ranks);

}  // namespace ultraep::test

// What a seed stands for: the group, the settings, the framework's pace, and how much goes wrong.
#pragma once

#include <cstdint>
#include <vector>

#include "plugin/core/generation.h"
#include "protocol/group_config.h"
#include "tests/simulation/world.h"

namespace ultraep::simulation {

struct Scenario {
  uint64_t seed = 0;
  GroupConfig config;
  RankSettings settings;
  uint64_t lease_ns = 0;
  uint64_t think_ns = 0;      // at most, between two calls of a rank's main thread
  uint64_t skew = 0;          // steps a rank may be ahead of the last one; the framework's dispatch
  uint64_t busy_ns = 0;       // how long things go wrong
  uint64_t fault_period = 0;  // scheduling steps between two faults, on average
  uint32_t fail_in_1024 = 0;  // plans that a rank cannot follow
  WorldOptions world;
};

Scenario MakeScenario(uint64_t seed);

// The load of a rank in a step: a pure function, so that a checker can solve the step again.
std::vector<uint32_t> Row(const Scenario& scenario, uint32_t rank, uint64_t sequence);

}  // namespace ultraep::simulation

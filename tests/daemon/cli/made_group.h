// A group's status as the daemon would send it, with numbers that can be worked out by hand.
#pragma once

#include <cstdint>
#include <string>

#include "protocol/boards.h"
#include "protocol/operator_messages.h"

namespace ultraep {

// Open, 4 ranks, 16 experts, 2 slots. Each of its `steps` steps had 400 tokens, so 100 per rank on
// average: the fullest rank 150 before, 102 under the plan, at least 100 under any; 3 replicas;
// solve in 15 us, plan in 25 us.
inline StatusGroup MadeGroup(const std::string& name, uint64_t steps) {
  StatusGroup g;
  SetText(g.config.name, name);
  g.config.ranks = 4;
  g.config.experts = 16;
  g.config.slots = 2;
  g.config.layers = 3;
  g.config.slot_sets = 1;
  g.config.window = 4;
  g.gate_state = 1;
  g.generations = 1;
  g.memory_bytes = 3 << 20;
  for (uint32_t r = 0; r < 4; ++r) g.members[r] = uint8_t(MemberState::kReady);
  GroupCounters& c = g.counters;
  c.steps_planned = steps;
  c.tokens_sum = 400 * steps;
  c.peak_before_sum = 150 * steps;
  c.peak_sum = 102 * steps;
  c.lower_bound_sum = 100 * steps;
  c.replicas = 3 * steps;
  for (uint64_t i = 0; i < steps; ++i) {
    CountLatencyAlone(&g.planning.solve, 15'000);
    CountLatencyAlone(&g.planning.plan, 25'000);
  }
  return g;
}

}  // namespace ultraep

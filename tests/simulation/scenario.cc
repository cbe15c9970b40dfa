#include "tests/simulation/scenario.h"

#include <cstring>

namespace ultraep::simulation {

Scenario MakeScenario(uint64_t seed) {
  test::Random random(seed * 2 + 1);
  auto one_of = [&](std::initializer_list<uint64_t> values) {
    return values.begin()[random.Below(values.size())];
  };
  Scenario s;
  s.seed = seed;
  GroupConfig& c = s.config;
  std::strcpy(c.name, "simulated");
  c.ranks = uint32_t(2 + random.Below(3));
  c.experts = c.ranks * uint32_t(1 + random.Below(3));
  c.slots = uint32_t(1 + random.Below(2));
  c.layers = 2;
  c.window = uint32_t(1 + random.Below(3));
  c.slot_sets = 1;
  c.step_timeout_ns = one_of({200, 500, 1500, 5000}) * kMillisecond;
  s.settings.step_timeout_ns = c.step_timeout_ns;
  s.settings.solve_deadline_ns = one_of({50, 500, 5000, 100'000}) * kMicrosecond;
  s.lease_ns = one_of({500, 700, 1500}) * kMillisecond;
  s.think_ns = one_of({2, 10, 40}) * kMillisecond;
  s.skew = c.window + one_of({0, 1, 4, 1000});
  s.busy_ns = one_of({1000, 3000, 6000}) * kMillisecond;
  s.fault_period = one_of({200, 600, 2000});
  s.fail_in_1024 = uint32_t(one_of({0, 0, 8, 40}));
  s.world.seed = seed;
  s.world.point_cost_ns = one_of({200, 2000, 10'000});
  s.world.switch_percent = uint32_t(one_of({100, 50, 10}));
  s.world.lost_wakes = uint32_t(one_of({0, 0, 30}));
  return s;
}

std::vector<uint32_t> Row(const Scenario& scenario, uint32_t rank, uint64_t sequence) {
  test::Random random(scenario.seed ^ (sequence * 64 + rank + 1) * 0x9e3779b97f4a7c15ull);
  std::vector<uint32_t> row(scenario.config.experts);
  for (uint32_t& tokens : row) tokens = uint32_t(random.Below(8));
  row[sequence % row.size()] += uint32_t(20 + random.Below(80));  // one hot expert per step
  return row;
}

}  // namespace ultraep::simulation

// Prints a digest for each of many plans: what every compiler, optimisation and machine must agree
// on. One line per plan: shape, options, digest.
#include "tests/daemon/planner/plan_digest.h"

#include <cstdio>

#include "daemon/planner/solve_plan.h"

namespace ultraep::test {
namespace {

PlanOptions OptionsFor(uint64_t seed, uint32_t ranks) {
  PlanOptions options;
  options.epsilon_ppm = seed % 5 == 0 ? 0 : 5000;
  if (seed % 7 == 0) options.tile_tokens = 16;
  if (seed % 11 == 0) options.cost = {1000, 200'000, 50'000};
  for (uint32_t r = 0; seed % 13 == 0 && r < ranks; ++r)
    options.speeds.push_back(r % 4 ? kFullSpeed : kFullSpeed / 2);
  for (uint32_t r = 0; seed % 17 == 0 && r < ranks; ++r)
    options.without_slots.push_back(r % 3 == 0);
  return options;
}

void PrintAll() {
  PlanWorkspace workspace;
  Plan plan;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    Random random(seed);
    PlanShape shape;
    shape.ranks = 4u << random.Below(5);
    shape.experts = shape.ranks * uint32_t(1 + random.Below(8));
    shape.slots = uint32_t(1 + random.Below(3));
    if (random.Below(4) == 0) shape.domain_size = shape.ranks / 2;
    const LoadMatrix load = IntegerLoad(shape, seed);
    SolvePlan(shape, load.view(), OptionsFor(seed, shape.ranks), &workspace, &plan);
    std::printf("%u/%u/%u/%u seed %llu: %016llx\n", shape.ranks, shape.experts, shape.slots,
                shape.domain_size, static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(DigestOf(plan)));
  }
}

}  // namespace
}  // namespace ultraep::test

int main() { ultraep::test::PrintAll(); }

// Random shapes and loads of all kinds: the plan is legal, exact and never harmful.
#include <cstdlib>

#include "tests/daemon/planner/planner_checks.h"

namespace ultraep::test {
namespace {

PlanShape RandomShape(Random* random) {
  static constexpr uint32_t kRanks[] = {1, 2, 3, 4, 6, 8, 12, 16, 36, 64};
  PlanShape shape;
  shape.ranks = kRanks[random->Below(10)];
  shape.experts = shape.ranks * uint32_t(1 + random->Below(random->Below(4) ? 6 : 32));
  shape.slots = random->Below(random->Below(8) ? 4 : kMaxSlotsPerRank + 1);
  if (random->Below(3) == 0) {
    do {
      shape.domain_size = 1 + random->Below(shape.ranks);
    } while (shape.ranks % shape.domain_size);
  }
  return shape;
}

uint32_t RandomCell(uint32_t kind, Random* random) {
  switch (kind) {
    case 0:
      return random->Below(2);
    case 1:
      return random->Below(100);
    case 2:  // wide range of scales
      return uint32_t(random->Next() >> (32 + random->Below(32)));
    case 3:  // mostly empty, sometimes the largest cell
      return random->Below(10) ? 0 : UINT32_MAX;
    case 4:
      return UINT32_MAX;
    default:
      return random->Below(5) ? random->Below(1000) : random->Below(1000000);
  }
}

LoadMatrix RandomLoad(const PlanShape& shape, Random* random) {
  LoadMatrix load(shape.ranks, shape.experts);
  const uint32_t kind = random->Below(6);
  for (uint32_t& cell : load.tokens) cell = RandomCell(kind, random);
  if (random->Below(4) == 0) {  // one rank's experts take it all
    const uint32_t rank = random->Below(shape.ranks);
    for (uint32_t r = 0; r < shape.ranks; ++r)
      for (uint32_t e = 0; e < shape.experts; ++e)
        if (shape.home(e) != rank) load.at(r, e) = 0;
  }
  return load;
}

PlanOptions RandomOptions(const PlanShape& shape, Random* random) {
  PlanOptions options;
  options.epsilon_ppm = random->Below(2) ? 5000 : random->Below(20000) * random->Below(2);
  options.variants = random->Below(80);
  options.work_limit = random->Below(4) ? 20000 : random->Below(1000);
  if (random->Below(4) == 0) options.tile_tokens = random->Below(300);
  for (uint64_t* cost : {&options.cost.token, &options.cost.expert, &options.cost.instance})
    if (random->Below(8) == 0) *cost = random->Next() >> (24 + random->Below(40));
  if (random->Below(4) == 0)
    for (uint32_t r = 0; r < shape.ranks; ++r)
      options.speeds.push_back(uint32_t(1 + random->Below(kFullSpeed)));
  if (random->Below(4) == 0)
    for (uint32_t r = 0; r < shape.ranks; ++r)
      options.without_slots.push_back(random->Below(3) == 0);
  return options;
}

TEST(PlanProperties, EveryPlanIsLegalAndExactAndNeverRaisesThePeak) {
  PlanWorkspace used;
  const uint64_t seeds = std::getenv("ULTRAEP_NIGHTLY") ? 400'000 : 8000;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    Random random(seed);
    const PlanShape shape = RandomShape(&random);
    const LoadMatrix load = RandomLoad(shape, &random);
    const PlanOptions options = RandomOptions(shape, &random);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + Text(shape));
    ASSERT_EQ(CheckShape(shape), "");
    const Plan plan = SolveOrFail(shape, load.view(), options);
    if (testing::Test::HasFatalFailure() || testing::Test::HasFailure()) return;

    Plan again;
    again.replicas.resize(3);  // leftovers must not matter
    SolvePlan(shape, load.view(), options, &used, &again);
    ASSERT_EQ(plan, again) << "a used workspace changed the plan";
  }
}

TEST(PlanProperties, OutOfRangeOptionsAreTakenAsTheNearestAllowedOnes) {
  const LoadMatrix load = LogNormalLoad(8, 64, 2, 1, {512, 8});
  const PlanShape shape{8, 64, 2, 0};
  PlanOptions wild, tame;
  wild.epsilon_ppm = UINT32_MAX;
  wild.variants = UINT32_MAX;
  tame.epsilon_ppm = 1'000'000;
  tame.variants = 64;
  EXPECT_EQ(SolveOrFail(shape, load.view(), wild), SolveOrFail(shape, load.view(), tame));
}

TEST(PlanProperties, ReplicasStayInTheScaleUpDomain) {
  const PlanShape shape{16, 64, 2, 4};
  const LoadMatrix load = LogNormalLoad(16, 64, 2.5, 3, {2048, 8});
  const Plan plan = SolveOrFail(shape, load.view());
  EXPECT_FALSE(plan.replicas.empty());
  for (const Replica& r : plan.replicas)
    EXPECT_EQ(shape.domain(r.rank), shape.domain(shape.home(r.expert)));
  // The heaviest domain's mean is the bound, and it is reached.
  EXPECT_LE(plan.certificate.peak, plan.certificate.lower_bound * 1.0051);
}

TEST(PlanProperties, LargestShapeIsPlannedFor) {
  const PlanShape shape{kMaxRanks, kMaxExperts, kMaxSlotsPerRank, 0};
  ASSERT_EQ(CheckShape(shape), "");
  LoadMatrix load(shape.ranks, shape.experts);
  Random random(1);
  for (uint32_t e = 0; e < shape.experts; ++e) {
    const uint32_t tokens = random.Below(16) ? random.Below(1000) : UINT32_MAX;
    for (uint32_t r = 0; r < 4; ++r) load.at(random.Below(shape.ranks), e) = tokens;
  }
  const Plan plan = SolveOrFail(shape, load.view());
  EXPECT_LE(ImbalanceOf(shape, plan), 1.0051);
}

}  // namespace
}  // namespace ultraep::test

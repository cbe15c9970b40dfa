// What the options promise: exact mode, speeds, ranks without slots, tiles, decisions by cost.
#include <numeric>

#include "daemon/planner/column_sums.h"
#include "daemon/planner/step_cost.h"
#include "tests/daemon/planner/planner_checks.h"

namespace ultraep::test {
namespace {

// Tokens of each rank under the plan.
std::vector<uint64_t> RankTokens(const PlanShape& shape, LoadView load, const Plan& plan) {
  std::vector<uint64_t> tokens(shape.ranks, 0);
  for (uint32_t e = 0; e < shape.experts; ++e) tokens[shape.home(e)] += ExpertTokens(load, e);
  for (const Replica& r : plan.replicas) {
    tokens[shape.home(r.expert)] -= r.tokens;
    tokens[r.rank] += r.tokens;
  }
  return tokens;
}

PlanOptions Exact() {
  PlanOptions options;
  options.epsilon_ppm = 0;
  return options;
}

TEST(ExactMode, RanksDifferByOneTokenAtMost) {
  // MoonEP's theorem: as many slots as experts per rank are always enough.
  const PlanShape shapes[] = {{8, 16, 2, 0}, {64, 256, 4, 0}, {64, 64, 1, 0}, {16, 64, 4, 4}};
  for (const PlanShape& shape : shapes)
    for (const double imbalance : {1.05, 1.5, 3.})
      for (uint64_t seed = 1; seed <= 6; ++seed) {
        SCOPED_TRACE(Text(shape) + " imbalance " + std::to_string(imbalance) + " seed " +
                     std::to_string(seed));
        const LoadMatrix load =
            seed % 2 ? LogNormalLoad(shape.ranks, shape.experts, imbalance, seed, {300, 4})
                     : DominantExpertLoad(shape.ranks, shape.experts, imbalance, seed, {300, 4});
        const Plan plan = SolveOrFail(shape, load.view(), Exact());
        const std::vector<uint64_t> tokens = RankTokens(shape, load.view(), plan);
        const uint32_t size = shape.domain_size ? shape.domain_size : shape.ranks;
        uint64_t bound = 0;
        for (uint32_t d = 0; d < shape.ranks; d += size) {
          const auto from = tokens.begin() + d, to = from + size;
          const uint64_t sum = std::accumulate(from, to, uint64_t{0});
          bound = std::max(bound, (sum + size - 1) / size);
          // A domain below the heaviest one's mean may be left as it is.
          if (shape.domain_size == 0) {
            EXPECT_LE(*std::max_element(from, to) - *std::min_element(from, to), 1);
          }
        }
        EXPECT_EQ(plan.certificate.peak, bound);
        // One piece per receiver, one per exporter that fills a room, one per exhausted expert.
        EXPECT_LE(plan.replicas.size(), 2 * shape.ranks);
      }
}

TEST(ExactMode, TheEmptiestRankIsFilledAlsoWhenThePeakIsTheMean) {
  const PlanShape shape{6, 6, 1, 0};
  const LoadMatrix load = FromExpertTokens(6, {10, 10, 10, 9, 9, 7});
  const Plan plan = SolveOrFail(shape, load.view(), Exact());
  const std::vector<uint64_t> tokens = RankTokens(shape, load.view(), plan);
  EXPECT_EQ(*std::min_element(tokens.begin(), tokens.end()), 9);
  EXPECT_EQ(*std::max_element(tokens.begin(), tokens.end()), 10);
}

TEST(Speeds, ASlowRankGetsItsShare) {
  const PlanShape shape{8, 64, 4, 0};
  PlanOptions options;
  options.speeds.assign(8, kFullSpeed);
  options.speeds[3] = kFullSpeed / 2;
  const LoadMatrix load = LogNormalLoad(8, 64, 1.5, 3);
  PlanWorkspace workspace;
  Plan plan;
  SolvePlan(shape, load.view(), options, &workspace, &plan);
  const std::vector<uint64_t> tokens = RankTokens(shape, load.view(), plan);
  const uint64_t fair = plan.certificate.total * 2 / 15;  // of a rank at full speed
  EXPECT_LE(plan.certificate.peak, fair * 1.0051);
  EXPECT_LE(tokens[3], fair * 0.5026);
  for (const uint64_t t : tokens) EXPECT_LE(t, fair * 1.0051);
}

TEST(Speeds, ARankTooSlowForOneTokenStaysWithinTheExactMode) {
  PlanOptions options = Exact();
  options.speeds.assign(6, kFullSpeed);
  options.speeds[1] = options.speeds[2] = 1;
  const LoadMatrix load = FromExpertTokens(6, {9, 0, 0, 3, 1, 2});
  const Plan plan = SolveOrFail({6, 6, 2, 0}, load.view(), options);
  EXPECT_EQ(plan.certificate.peak, 4);
}

TEST(Speeds, EqualSpeedsChangeNothing) {
  const PlanShape shape{16, 64, 2, 0};
  PlanOptions options;
  options.speeds.assign(16, kFullSpeed);
  const LoadMatrix load = LogNormalLoad(16, 64, 2, 3);
  EXPECT_EQ(SolveOrFail(shape, load.view(), options), SolveOrFail(shape, load.view()));
}

TEST(RanksWithoutSlots, ReceiveNothingAndKeepTheirExperts) {
  const PlanShape shape{8, 64, 2, 0};
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    PlanOptions options;
    options.without_slots.assign(8, 0);
    Random random(seed);
    for (uint32_t i = 0; i < 3; ++i) options.without_slots[random.Below(8)] = 1;
    const LoadMatrix load = LogNormalLoad(8, 64, 2, seed);
    const Plan plan = SolveOrFail(shape, load.view(), options);
    EXPECT_FALSE(plan.replicas.empty());
    for (const Replica& r : plan.replicas) EXPECT_FALSE(options.without_slots[r.rank]);
    EXPECT_LE(plan.certificate.peak, plan.certificate.lower_bound * 1.0051);
  }
}

TEST(RanksWithoutSlots, ADomainWithoutAnySlotStaysAsItIs) {
  PlanOptions options;
  options.without_slots.assign(8, 1);
  const LoadMatrix load = LogNormalLoad(8, 64, 2, 1);
  const Plan plan = SolveOrFail({8, 64, 2, 0}, load.view(), options);
  EXPECT_TRUE(plan.replicas.empty());
  EXPECT_EQ(plan.certificate.lower_bound, plan.certificate.peak_before);
}

TEST(Tiles, OneInstanceOfAnExpertAtMostIsNoMultiple) {
  const PlanShape shape{64, 256, 2, 0};
  PlanOptions options;
  options.tile_tokens = 128;
  for (uint64_t seed = 1; seed <= 5; ++seed)
    for (const bool dominant : {false, true}) {
      SCOPED_TRACE(seed);
      const LoadMatrix load =
          dominant ? DominantExpertLoad(64, 256, 2, seed) : LogNormalLoad(64, 256, 2, seed);
      const Plan plan = SolveOrFail(shape, load.view(), options);
      EXPECT_LE(ImbalanceOf(shape, plan), 1.0051);
      std::vector<uint64_t> main(shape.experts);
      std::vector<uint32_t> partial(shape.experts, 0);
      for (uint32_t e = 0; e < shape.experts; ++e) main[e] = ExpertTokens(load.view(), e);
      for (const Replica& r : plan.replicas) {
        main[r.expert] -= r.tokens;
        partial[r.expert] += r.tokens % 128 != 0;
      }
      for (const Replica& r : plan.replicas)
        EXPECT_LE(partial[r.expert] + (main[r.expert] % 128 != 0), 1) << "expert " << r.expert;
    }
}

TEST(Cost, NoReplicasWhereTheTransferCostsMoreThanBalanceGains) {
  const PlanShape shape{64, 256, 2, 0};
  const LoadMatrix load = DominantExpertLoad(64, 256, 2, 1);
  const Certificate plain = SolveOrFail(shape, load.view()).certificate;
  PlanOptions options;
  options.cost.token = 1000;
  options.cost.expert = (plain.peak_before - plain.lower_bound) * 1000 + 1;
  EXPECT_TRUE(SolveOrFail(shape, load.view(), options).replicas.empty());
  options.cost.expert /= 2;
  EXPECT_EQ(SolveOrFail(shape, load.view(), options).certificate.peak, plain.peak);
}

// What CostModel's comment says, worked out from scratch.
double Predicted(const PlanShape& shape, LoadView load, const Plan& plan, const CostModel& model) {
  std::vector<uint64_t> tokens = RankTokens(shape, load, plan), main(shape.experts);
  std::vector<uint32_t> instances(shape.ranks), in(shape.ranks), out(shape.ranks);
  std::vector<bool> exported(shape.experts);
  for (uint32_t e = 0; e < shape.experts; ++e) main[e] = ExpertTokens(load, e);
  for (const Replica& r : plan.replicas) {
    main[r.expert] -= r.tokens;
    ++in[r.rank];
    ++instances[r.rank];
    if (!exported[r.expert]) ++out[shape.home(r.expert)];
    exported[r.expert] = true;
  }
  for (uint32_t e = 0; e < shape.experts; ++e) instances[shape.home(e)] += main[e] > 0;
  double slowest = 0;
  uint32_t transfer = 0;
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    slowest = std::max(slowest, double(tokens[r]) * double(model.token) +
                                    double(instances[r]) * double(model.instance));
    transfer = std::max({transfer, in[r], out[r]});
  }
  return slowest + transfer * double(model.expert);
}

TEST(Cost, TheChosenPlanIsNeverCostlierThanThePlainOrTheBalancedOne) {
  const PlanShape shape{32, 128, 2, 0};
  const Plan none;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const LoadMatrix load = LogNormalLoad(32, 128, 1.2 + seed % 5 * 0.5, seed, {256, 4});
    PlanOptions options;
    options.cost = {1 + random.Below(1000), random.Below(1'000'000), random.Below(100'000)};
    const Plan chosen = SolveOrFail(shape, load.view(), options);
    const double cost = Predicted(shape, load.view(), chosen, options.cost);
    EXPECT_LE(cost, Predicted(shape, load.view(), none, options.cost));
    EXPECT_LE(cost, Predicted(shape, load.view(), SolveOrFail(shape, load.view()), options.cost));
  }
}

TEST(Cost, DecodeBatchesMoveWholeExperts) {
  const PlanShape shape{8, 64, 2, 0};
  std::vector<uint32_t> tokens(64, 0);
  for (uint32_t e = 0; e < 8; ++e) tokens[e] = 4;  // all active experts on rank 0
  const LoadMatrix load = FromExpertTokens(8, tokens);
  PlanOptions options;
  options.cost = {1000, 10'000, 500'000};  // an instance costs as much as 500 tokens
  const Plan plan = SolveOrFail(shape, load.view(), options);
  EXPECT_EQ(plan.replicas.size(), 7);  // one active expert on every rank
  for (const Replica& r : plan.replicas) EXPECT_EQ(r.tokens, 4);
}

TEST(Cost, DecodeBatchesAreNeverCostlierThanWithWholeExpertsMoved) {
  const PlanShape shape{8, 64, 2, 0};
  uint32_t moved_whole = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    const LoadMatrix load = LogNormalLoad(8, 64, 2, seed, {2, 4});
    PlanOptions options;
    options.cost = {1000, 10'000, 500'000};
    const Plan plan = SolveOrFail(shape, load.view(), options);
    planner::Problem problem;
    problem.Load(shape, load.view(), options);
    planner::StepCost step_cost;
    std::vector<planner::Piece> whole;
    step_cost.MoveWhole(problem, options.cost, {0, 8}, &whole);
    const auto of_whole = double(step_cost.Of(problem, options.cost, whole));
    EXPECT_LE(Predicted(shape, load.view(), plan, options.cost), of_whole);
    moved_whole += !whole.empty() && plan.replicas.size() == whole.size();
  }
  EXPECT_GT(moved_whole, 5);
}

TEST(ColumnSums, AllInstructionSetsGiveTheSameSums) {
  for (const uint32_t experts : {1u, 3u, 31u, 32u, 33u, 64u, 100u, 256u}) {
    LoadMatrix load(7, experts);
    Random random(experts);
    for (uint32_t& cell : load.tokens) cell = uint32_t(random.Next());
    std::vector<uint64_t> portable(experts), best(experts);
    planner::ColumnSums(load.view(), portable.data(), planner::Isa::kPortable);
    planner::ColumnSums(load.view(), best.data(), planner::BestIsa());
    EXPECT_EQ(portable, best) << experts;
    for (uint32_t e = 0; e < experts; ++e) EXPECT_EQ(portable[e], ExpertTokens(load.view(), e));
  }
}

}  // namespace
}  // namespace ultraep::test

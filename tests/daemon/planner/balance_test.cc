// How well realistic loads are balanced at default options, and with how few replicas, beside the
// published heuristic on the same loads.
#include "daemon/planner/baselines/ultraep_heuristic.h"
#include "tests/daemon/planner/planner_checks.h"

namespace ultraep::test {
namespace {

using planner::Domain;
using planner::Piece;
using planner::Problem;

constexpr double kAim = 1.0051;  // the default epsilon, and a token's rounding

size_t HeuristicReplicas(const PlanShape& shape, LoadView load) {
  Problem problem;
  problem.Load(shape, load, {});
  problem.SortExperts({0, shape.ranks});
  planner::UltraEpHeuristic heuristic;
  std::vector<Piece> pieces;
  heuristic.Run(problem, {0, shape.ranks}, &pieces);
  return pieces.size();
}

uint32_t MostReceived(const PlanShape& shape, const Plan& plan) {
  std::vector<uint32_t> received(shape.ranks, 0);
  for (const Replica& r : plan.replicas) ++received[r.rank];
  return *std::max_element(received.begin(), received.end());
}

// Replicas as a part of the heuristic's, five loads each; every load within `epsilon`.
double ReplicaRatio(const PlanShape& shape, double imbalance, uint32_t epsilon_ppm) {
  PlanOptions options;
  options.epsilon_ppm = epsilon_ppm;
  double ours = 0, theirs = 0;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const LoadMatrix load = DominantExpertLoad(shape.ranks, shape.experts, imbalance, seed);
    const Plan plan = SolveOrFail(shape, load.view(), options);
    EXPECT_LE(plan.certificate.gap(), epsilon_ppm / 1e6);
    EXPECT_EQ(MostReceived(shape, plan), 1) << "one replica per rank is enough";
    ours += double(plan.replicas.size());
    theirs += double(HeuristicReplicas(shape, load.view()));
  }
  return ours / theirs;
}

void ExpectRatios(uint32_t epsilon_ppm, double mean, double each) {
  double sum = 0;
  for (const uint32_t experts : {256u, 128u})
    for (const double imbalance : {1.5, 2., 3.}) {
      const double ratio = ReplicaRatio({64, experts, 2, 0}, imbalance, epsilon_ppm);
      EXPECT_LE(ratio, each) << experts << " experts, imbalance " << imbalance;
      sum += ratio;
    }
  EXPECT_LE(sum / 6, mean);
}

TEST(Balance, DominantExpertLoadsNeedFarFewerReplicasThanTheHeuristic) {
  ExpectRatios(10'000, 0.86, 0.89);  // the same balance
}

TEST(Balance, DominantExpertLoadsAtHalfTheImbalanceStillNeedFewer) {
  ExpectRatios(5'000, 0.93, 0.97);  // the heuristic stays at 1.01
}

TEST(Balance, LogNormalLoadsReachTheAim) {
  const PlanShape shape{64, 256, 2, 0};
  for (const double imbalance : {1.5, 2., 3.})
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      SCOPED_TRACE("imbalance " + std::to_string(imbalance) + " seed " + std::to_string(seed));
      const LoadMatrix load = LogNormalLoad(64, 256, imbalance, seed);
      EXPECT_LE(ImbalanceOf(shape, SolveOrFail(shape, load.view())), kAim);
    }
}

TEST(Balance, ZipfLoadsReachTheAim) {
  const PlanShape shape{64, 256, 2, 0};
  for (const double imbalance : {1.5, 2., 3.}) {
    SCOPED_TRACE(imbalance);
    const LoadMatrix load = ZipfLoad(64, 256, imbalance, 1);
    EXPECT_LE(ImbalanceOf(shape, SolveOrFail(shape, load.view())), kAim);
  }
}

TEST(Balance, LargeGroupsReachTheAim) {
  const PlanShape shapes[] = {{256, 256, 1, 0}, {256, 1024, 8, 0}, {128, 512, 2, 32}};
  for (const PlanShape& shape : shapes) {
    SCOPED_TRACE(Text(shape));
    const LoadMatrix load = DominantExpertLoad(shape.ranks, shape.experts, 2, 1, {1024, 8});
    EXPECT_LE(SolveOrFail(shape, load.view()).certificate.gap(), 0.005);
  }
}

struct Layers {
  uint32_t above_aim = 0, above_bar = 0;  // 1.005 and 1.01
  double worst = 1;
  size_t replicas = 0, heuristic_replicas = 0;
};

Layers SolveLayers(const PlanShape& shape) {
  Layers out;
  const std::vector<std::vector<double>> layers = DeepSeekV3Popularity();
  EXPECT_EQ(layers.size(), 58);
  for (uint32_t layer = 0; layer < layers.size(); ++layer) {
    SCOPED_TRACE("layer " + std::to_string(layer));
    const LoadMatrix load = ProfileLoad(layers[layer], shape.ranks, shape.experts, layer);
    const Plan plan = SolveOrFail(shape, load.view());
    // On 8 ranks the bound is above the mean where few slots cannot fill a cold rank: no plan gets
    // layer 21 below 1.017 and layer 43 below 1.014.
    EXPECT_LE(plan.certificate.gap(), 0.01);
    const double imbalance = ImbalanceOf(shape, plan);
    out.above_aim += imbalance > kAim;
    out.above_bar += imbalance > 1.01;
    out.worst = std::max(out.worst, imbalance);
    out.replicas += plan.replicas.size();
    out.heuristic_replicas += HeuristicReplicas(shape, load.view());
  }
  return out;
}

TEST(Balance, DeepSeekV3LayersReachTheAimWithFewerReplicasThanTheHeuristic) {
  const Layers layers = SolveLayers({64, 256, 2, 0});
  EXPECT_EQ(layers.above_aim, 0);
  EXPECT_LT(layers.replicas, layers.heuristic_replicas);
}

TEST(Balance, DeepSeekV3LayersReachTheAimWithOneSlotToo) {
  const Layers layers = SolveLayers({64, 256, 1, 0});
  EXPECT_LE(layers.above_bar, 3);
  EXPECT_LE(layers.worst, 1.02);
  EXPECT_EQ(layers.above_aim, 0) << "what was reached when this was written";
}

TEST(Balance, DeepSeekV3LayersOn8Ranks) {
  EXPECT_LE(SolveLayers({8, 256, 2, 0}).above_bar, 3);
  EXPECT_EQ(SolveLayers({8, 64, 2, 0}).above_bar, 0);
}

TEST(Balance, LoadsWithinEpsilonAreLeftAlone) {
  std::vector<uint32_t> tokens(64, 1000);
  tokens[0] = 1030;  // rank 0 is 0.37 % above the mean
  const LoadMatrix load = FromExpertTokens(8, tokens);
  EXPECT_TRUE(SolveOrFail({8, 64, 2, 0}, load.view()).replicas.empty());
}

}  // namespace
}  // namespace ultraep::test

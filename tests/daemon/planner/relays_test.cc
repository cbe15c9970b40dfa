// The relay schedule under the model of the network: near its bound on every load, beside the
// baselines; and what a schedule must be for no sender ever to wait in a circle.
#include "daemon/planner/relays.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "daemon/planner/baselines/ultraep_heuristic.h"
#include "daemon/planner/solve_plan.h"
#include "protocol/check_plan.h"
#include "tests/support/load_generators.h"
#include "tests/support/network_model.h"
#include "tests/support/random.h"
#include "tests/support/scheduled_plan.h"

namespace ultraep {
namespace {

using planner::Piece;
using planner::Relays;
using test::LoadMatrix;
using test::Makespan;
using test::NetworkModel;

constexpr uint32_t kHop = PlanOptions().relay_hop;

Makespan Simulate(const PlanShape& shape, const std::vector<Piece>& pieces) {
  return SimulateTransfer(NetworkModel(), shape, test::Scheduled(shape, kHop, pieces));
}

// How many experts the rank must export to come down to `level`, whatever the plan.
uint32_t LeastExported(const planner::Problem& problem, uint32_t rank, uint64_t level) {
  std::vector<uint64_t> tokens;
  const uint32_t first = problem.first_expert(rank);
  for (uint32_t e = first; e < first + problem.shape.experts_per_rank(); ++e)
    tokens.push_back(problem.expert_tokens[e]);
  std::sort(tokens.rbegin(), tokens.rend());
  uint64_t left = problem.rank_tokens[rank];
  uint32_t exported = 0;
  while (left > level) left -= tokens[exported++];
  return exported;
}

// The published setting of UltraEP: 64 ranks, 256 experts, 2 slots.
TEST(RelaysTest, MakespansAreNearTheBoundOnEveryLoad) {
  const PlanShape shape{64, 256, 2, 0};
  PlanWorkspace workspace;
  double ours = 0, theirs = 0, direct = 0;
  for (const double imbalance : {1.5, 2., 3.})
    for (const char generator : {'A', 'B', 'C'})
      for (uint64_t seed = 1; seed <= 5; ++seed) {
        SCOPED_TRACE(std::string(1, generator) + " imbalance " + std::to_string(imbalance) +
                     " seed " + std::to_string(seed));
        const LoadMatrix load = generator == 'A'
                                    ? test::DominantExpertLoad(64, 256, imbalance, seed)
                                : generator == 'B' ? test::ZipfLoad(64, 256, imbalance, seed)
                                                   : test::LogNormalLoad(64, 256, imbalance, seed);
        Plan plan;
        SolvePlan(shape, load.view(), {}, &workspace, &plan);
        const Makespan now = SimulateTransfer(NetworkModel(), shape, plan.replicas);
        EXPECT_LE(now.expert_times, 1.1 * now.bound_with_flags);
        if (generator == 'A') {
          EXPECT_LE(now.expert_times, 1.35);
        }
        planner::Problem problem;
        problem.Load(shape, load.view(), {});
        uint32_t forced = 0;
        for (uint32_t r = 0; r < 64; ++r)
          forced = std::max(forced, LeastExported(problem, r, plan.certificate.peak));
        if (generator == 'C' && forced <= 2) {
          EXPECT_LE(now.expert_times, 2.3);
        }
        EXPECT_LE(now.expert_times, std::max(2u, forced) + 0.35);

        planner::UltraEpHeuristic heuristic;
        heuristic.Reserve(shape);
        problem.SortExperts(problem.domain(0));
        std::vector<Piece> pieces;
        heuristic.Run(problem, problem.domain(0), &pieces);
        ours += now.expert_times;
        theirs += SimulateTransfer(NetworkModel(), shape, pieces, UltraEpRelays(shape, pieces))
                      .expert_times;
        for (Replica& r : plan.replicas) r.parent = -1;
        direct += SimulateTransfer(NetworkModel(), shape, plan.replicas).expert_times;
      }
  EXPECT_LT(ours, 0.55 * theirs);
  EXPECT_LT(ours, 0.55 * direct);
}

TEST(RelaysTest, OneExpertToManyRanks) {
  for (const uint32_t copies : {1u, 2u, 7u, 31u, 63u, 200u}) {
    const PlanShape shape{256, 256, 1, 0};
    std::vector<Piece> pieces;
    for (uint32_t i = 0; i < copies; ++i) pieces.push_back({5, i + 6 < 256 ? i + 6 : i - 251, 1});
    const Makespan now = Simulate(shape, pieces);
    // A chain takes 1 + n hops, doubling 1 + log2(n): neither is ever better than this.
    const double hop = kHop / double(Relays::kExpertTime);
    EXPECT_LE(now.expert_times, 1.02 + (copies - 1) * hop * 1.02) << copies;
    EXPECT_LE(now.expert_times, 1.02 + std::log2(double(copies)) + hop) << copies;
  }
}

TEST(RelaysTest, CopiesTravelDirectlyWhereThatIsAsGood) {
  // Two experts of two ranks, one copy each: nobody gains from a relay.
  const PlanShape shape{4, 4, 2, 0};
  Relays relays;
  relays.Reserve(shape);
  for (const auto& t : relays.Schedule(shape, kHop, {{0, 2, 9}, {1, 3, 8}}))
    EXPECT_EQ(t.parent, -1);
  // A hop that takes as long as the expert itself: the main copy sends as early as the relay.
  for (const auto& t : relays.Schedule(shape, Relays::kExpertTime, {{0, 2, 9}, {0, 3, 8}}))
    EXPECT_EQ(t.parent, -1);
}

// Rank 1 exports two experts itself; rank 2 has nothing to send. The tree of expert 0 goes through
// rank 2, although rank 1 has more tokens.
TEST(RelaysTest, RelaysAreRanksWithLittleToSend) {
  const PlanShape shape{6, 12, 2, 0};
  Relays relays;
  relays.Reserve(shape);
  const std::vector<Piece> pieces = {{0, 1, 100}, {0, 2, 5}, {2, 4, 7}, {3, 5, 6}};
  const auto transfers = relays.Schedule(shape, kHop, pieces);
  for (const auto& t : transfers) {
    if (t.piece == 1) {
      EXPECT_EQ(t.parent, -1);
    }
    if (t.piece == 0) {
      ASSERT_GE(t.parent, 0);
      EXPECT_EQ(transfers[size_t(t.parent)].piece, 1u);
    }
  }
}

// Rank 0 exports two experts, and the last relay of one of them, rank 2, is free only when rank 0
// is: were it rank 0 that sends that copy, its second expert would be an expert-time late.
TEST(RelaysTest, OwnExpertsGoBeforeFurtherCopies) {
  const PlanShape shape{8, 16, 2, 0};
  const std::vector<Piece> pieces = {{0, 4, 9}, {0, 5, 8}, {0, 2, 7}, {0, 3, 6},
                                     {1, 6, 5}, {4, 6, 5}, {6, 7, 4}};
  const Makespan now = Simulate(shape, pieces);
  EXPECT_LE(now.expert_times, 1.1 * now.bound_with_flags);
}

TEST(RelaysTest, DeepSeekV3LayersAreNearTheirBounds) {
  const PlanShape shape{64, 256, 2, 0};
  PlanWorkspace workspace;
  const auto layers = test::DeepSeekV3Popularity();
  for (uint32_t i = 0; i < layers.size(); ++i) {
    Plan plan;
    SolvePlan(shape, test::ProfileLoad(layers[i], 64, 256, i).view(), {}, &workspace, &plan);
    const Makespan now = SimulateTransfer(NetworkModel(), shape, plan.replicas);
    EXPECT_LE(now.expert_times, 1.1 * now.bound_with_flags) << "layer " << i;
  }
}

TEST(RelaysTest, RandomPiecesAreEachSentOnceAndInTheModelAllArrive) {
  test::Random random(5);
  for (int round = 0; round < 300; ++round) {
    const uint32_t ranks = 2 + random.Below(20), per_rank = 1 + random.Below(4);
    const PlanShape shape{ranks, ranks * per_rank, 1 + uint32_t(random.Below(4)), 0};
    const std::vector<Piece> pieces = test::RandomPieces(shape, &random);
    const std::vector<Replica> replicas =
        test::Scheduled(shape, uint32_t(random.Below(1025)), pieces);
    ASSERT_EQ(replicas.size(), pieces.size());
    PlanChecker checker;
    const PlanFault fault = checker.Check(shape, replicas, [](uint32_t) { return 1u << 30; });
    ASSERT_FALSE(fault) << fault.text();
    if (pieces.empty()) continue;
    const Makespan now = SimulateTransfer(NetworkModel(), shape, replicas);
    // No schedule is faster, and even two per link all the way are not this slow.
    EXPECT_GE(now.expert_times, now.bound * 0.999);
    EXPECT_LE(now.expert_times, 3 * now.bound_with_flags + 1);
  }
}

}  // namespace
}  // namespace ultraep

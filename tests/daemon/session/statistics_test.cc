#include "daemon/session/statistics.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

// Two ranks, four experts; worked by hand. Expert 0 has 30 + 50 tokens, expert 1 has 20, 2 and 3
// have 10 each: rank 0 gets 100, rank 1 20, mean 60. A replica of expert 0 on rank 1 takes 40: 60
// and 60.
class StatisticsTest : public testing::Test {
 protected:
  static constexpr uint32_t kLoad[8] = {30, 10, 5, 5, 50, 10, 5, 5};

  StepOutcome Planned(uint32_t layer = 0) {
    StepOutcome step;
    step.shape = {2, 4, 1, 0};
    step.load = {kLoad, 2, 4};
    step.replicas = &replicas_;
    step.verdict.time_ns = 1;
    step.verdict.layer = layer;
    step.verdict.replicas = 1;
    step.verdict.certificate = {120, 100, 60, 60};
    step.verdict.solve_ns = 7'000;
    step.collect_ns = 90'000;
    step.plan_ns = 12'000;
    return step;
  }
  StepOutcome Fallback(FallbackReason reason) {
    StepOutcome step;
    step.verdict.time_ns = 2;
    step.verdict.kind = EventKind::kFallback;
    step.verdict.reason = reason;
    return step;
  }

  const std::vector<Replica> replicas_{Replica{.expert = 0, .rank = 1, .tokens = 40}};
  StepStatistics statistics_;
};

TEST_F(StatisticsTest, AHandWorkedPlanIsCountedExactly) {
  statistics_.Count(Planned());
  statistics_.Count(Planned());
  const GroupCounters c = statistics_.Counters();
  EXPECT_EQ(c.steps_planned, 2u);
  EXPECT_EQ(c.replicas, 2u);
  EXPECT_EQ(c.peak_before_sum, 200u);
  EXPECT_EQ(c.peak_sum, 120u);
  EXPECT_EQ(c.lower_bound_sum, 120u);
  EXPECT_EQ(c.tokens_sum, 240u);
  EXPECT_EQ(c.last_peak_before, 100u);
  EXPECT_EQ(c.last_peak, 60u);
  EXPECT_EQ(c.last_tokens, 120u);
  EXPECT_EQ(c.last_replicas, 1u);
  const PlanLatencies p = statistics_.Planning();
  EXPECT_EQ(p.solve.sum_ns, 14'000u);
  EXPECT_EQ(p.plan.sum_ns, 24'000u);
  EXPECT_EQ(p.collect.count(), 2u);
  EXPECT_EQ(p.collect.buckets[LatencyBucket(90'000)], 2u);
}

TEST_F(StatisticsTest, FallbacksAreCountedByReasonAndLeaveTheLastPlan) {
  statistics_.Count(Planned());
  statistics_.Count(Fallback(FallbackReason::kDeadline));
  statistics_.Count(Fallback(FallbackReason::kOrderMismatch));
  statistics_.Count(Fallback(FallbackReason::kBadRow));
  statistics_.Count(Fallback(FallbackReason::kBadRow));
  const GroupCounters c = statistics_.Counters();
  EXPECT_EQ(c.fallback_deadline, 1u);
  EXPECT_EQ(c.fallback_order, 1u);
  EXPECT_EQ(c.fallback_bad_row, 2u);
  EXPECT_EQ(c.steps_fallback(), 4u);
  EXPECT_EQ(c.last_peak, 60u);
  EXPECT_EQ(statistics_.verdicts().pushed(), 5u);
  EXPECT_EQ(statistics_.fallbacks().pushed(), 4u);
  EXPECT_EQ(statistics_.Planning().solve.count(), 1u);
}

TEST_F(StatisticsTest, ALayersRankTokensAreWhatThePlanGivesThem) {
  statistics_.KeepLayers(2, 2);
  statistics_.Count(Planned(1));
  statistics_.Count(Planned(9));  // no such layer
  const std::vector<LayerStatistics> layers = statistics_.Layers();
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].steps, 0u);
  EXPECT_EQ(layers[1].steps, 1u);
  EXPECT_EQ(layers[1].last_peak_before, 100u);
  EXPECT_EQ(layers[1].last_tokens, 120u);
  EXPECT_EQ(layers[1].rank_tokens, (std::vector<uint64_t>{60, 60}));
}

TEST_F(StatisticsTest, LayersMayBeKeptWithoutTokensPerRank) {
  EXPECT_EQ(statistics_.detail_series(), 0u);
  statistics_.KeepLayers(2, 0);
  EXPECT_EQ(statistics_.detail_series(), 2u * 2);
  statistics_.Count(Planned(1));
  const std::vector<LayerStatistics> layers = statistics_.Layers();
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[1].last_peak, 60u);
  EXPECT_TRUE(layers[1].rank_tokens.empty());
}

TEST_F(StatisticsTest, WithoutDetailThereAreNoLayers) {
  statistics_.Count(Planned());
  EXPECT_TRUE(statistics_.Layers().empty());
}

TEST_F(StatisticsTest, ARecordingGetsEveryStepWhoseRowsAreKnown) {
  std::string wrong;
  const auto tap = TraceTap::Create({2, 4, 1, 0}, 1 << 16, &wrong);
  ASSERT_NE(tap, nullptr) << wrong;
  statistics_.Count(Planned());
  statistics_.Record(tap);
  statistics_.Count(Planned());
  statistics_.Count(Fallback(FallbackReason::kBadRow));
  StepOutcome late = Fallback(FallbackReason::kDeadline);
  late.load = {kLoad, 2, 4};
  statistics_.Count(late);
  statistics_.Record(nullptr);
  statistics_.Count(Planned());
  Mapping mapping;
  ASSERT_EQ(mapping.Map(tap->file(), 0, sizeof(TraceRing) + tap->capacity(), false), "");
  const auto& ring = *reinterpret_cast<const TraceRing*>(mapping.base());
  EXPECT_EQ(ring.head.value.load(),
            TraceRecordBytes({2, 4, 1, 0}, 1) + TraceRecordBytes({2, 4, 1, 0}, 0));
}

TEST_F(StatisticsTest, LossesAreCountedByTheirKind) {
  statistics_.Lost(MemberState::kLeft);
  statistics_.Lost(MemberState::kGone);
  statistics_.Lost(MemberState::kGone);
  statistics_.Lost(MemberState::kFenced);
  const GroupCounters c = statistics_.Counters();
  EXPECT_EQ(c.members_left, 1u);
  EXPECT_EQ(c.members_gone, 2u);
  EXPECT_EQ(c.members_fenced, 1u);
}

}  // namespace
}  // namespace ultraep

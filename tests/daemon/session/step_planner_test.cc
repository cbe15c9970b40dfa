#include "daemon/session/step_planner.h"

#include <gtest/gtest.h>

#include "plugin/core/steps.h"
#include "tests/support/memory_group.h"

namespace ultraep {
namespace {

using test::MemoryGroup;
using test::SmallConfig;
using Progress = StepPlanner::Progress;

class StepPlannerTest : public testing::Test {
 protected:
  StepPlannerTest() {
    a_.Adopt(group_.Attach(0));
    b_.Adopt(group_.Attach(1));
  }
  void Open() { OpenGate(group_.boards().gate()); }
  static void Submit(Steps& steps, uint64_t sequence, uint32_t layer = 0) {
    const uint32_t row[4] = {90, 10, 10, 10};
    ASSERT_TRUE(steps.Submit(sequence, layer, 0, row, 4).ok());
  }
  VerdictWord word(uint64_t s) { return VerdictWord::Decode(group_.boards().word(s).value.load()); }

  GroupConfig config_ = SmallConfig(2, 4, 1, 2);
  MemoryGroup group_{config_};
  Steps a_{config_, 0}, b_{config_, 0};
  const std::shared_ptr<StepStatistics> statistics_ = std::make_shared<StepStatistics>();
  StepPlanner planner_{group_.boards(), MemoryGroup::kGeneration, {}, statistics_};
};

TEST_F(StepPlannerTest, NothingHappensWhileTheGateIsClosed) {
  EXPECT_EQ(planner_.Poll(), Progress::kNone);
}

TEST_F(StepPlannerTest, NoVerdictBeforeEveryRowIsThere) {
  Open();
  Submit(a_, 0);
  EXPECT_EQ(planner_.Poll(), Progress::kNone);
  EXPECT_EQ(word(0).verdict, Verdict::kNone);
  EXPECT_EQ(group_.boards().collected(0).value.load(), 0u);
  Submit(b_, 0);
  EXPECT_EQ(planner_.Poll(), Progress::kStep);
  EXPECT_EQ(word(0).verdict, Verdict::kPlan);
  EXPECT_EQ(group_.boards().collected(0).value.load(), 1u);
}

TEST_F(StepPlannerTest, PlanningBeginsAtTheFirstPlannedStep) {
  RaiseGate(group_.boards().gate(), 3);
  Open();
  for (uint64_t s = 0; s < 3; ++s) {
    Submit(a_, s);
    ResolvedStep step;
    ASSERT_TRUE(a_.Await(s, 0, &step).ok());
  }
  Submit(a_, 3);
  EXPECT_EQ(planner_.Poll(), Progress::kNone);
  EXPECT_EQ(planner_.next_sequence(), 3u);
}

TEST_F(StepPlannerTest, RowsOfDifferentLayersFallBackAndAreCounted) {
  Open();
  Submit(a_, 0, 1);
  Submit(b_, 0, 2);
  EXPECT_EQ(planner_.Poll(), Progress::kStep);
  EXPECT_EQ(word(0).verdict, Verdict::kFallback);
  planner_.Account();
  EXPECT_EQ(statistics_->Counters().fallback_order, 1u);
  EXPECT_EQ(statistics_->Counters().steps_fallback(), 1u);
}

TEST_F(StepPlannerTest, ARowThatContradictsItsHeaderFallsBackAndIsCounted) {
  Open();
  Submit(a_, 0);
  Submit(b_, 0);
  reinterpret_cast<uint32_t*>(group_.boards().row(1, 0))[2] += 5;  // sum differs from the header's
  EXPECT_EQ(planner_.Poll(), Progress::kStep);
  EXPECT_EQ(word(0).verdict, Verdict::kFallback);
  planner_.Account();
  EXPECT_EQ(statistics_->Counters().fallback_bad_row, 1u);
}

TEST_F(StepPlannerTest, ARowOfAnotherGenerationIsNeverPlanned) {
  Open();
  Submit(a_, 0);
  Submit(b_, 0);
  *reinterpret_cast<uint64_t*>(group_.boards().row_header(0, 0)) = 5;
  EXPECT_EQ(planner_.Poll(), Progress::kStep);
  EXPECT_EQ(word(0).verdict, Verdict::kFallback);
}

TEST_F(StepPlannerTest, AVerdictThatARankReachedFirstStands) {
  Open();
  Submit(a_, 0);
  Submit(b_, 0);
  bool won;
  Propose(group_.boards().word(0), 0, Verdict::kFallback, &won);
  EXPECT_EQ(planner_.Poll(), Progress::kStep);
  EXPECT_EQ(word(0).verdict, Verdict::kFallback);
  planner_.Account();
  EXPECT_EQ(statistics_->Counters().steps_planned, 0u);
  EXPECT_EQ(statistics_->Counters().fallback_deadline, 1u);
  EXPECT_EQ(planner_.next_sequence(), 1u);
}

// Rank memory is writable by its job: the planner must not follow it into the future.
TEST_F(StepPlannerTest, AScribbledVerdictWordEndsTheGeneration) {
  Open();
  group_.boards().word(0).value.store(VerdictWord{uint64_t{1} << 60, Verdict::kPlan}.Encode());
  EXPECT_EQ(planner_.Poll(), Progress::kOver);
  EXPECT_EQ(LoadGate(group_.boards().gate()).state, GateState::kEnded);
  EXPECT_EQ(planner_.next_sequence(), 0u);
}

TEST_F(StepPlannerTest, AfterTheEndNothingIsPlannedAnyMore) {
  Open();
  Submit(a_, 0);
  Submit(b_, 0);
  EndGate(group_.boards().gate());
  EXPECT_EQ(planner_.Poll(), Progress::kOver);
  EXPECT_EQ(word(0).verdict, Verdict::kNone);
}

TEST_F(StepPlannerTest, CountersTellImbalanceBeforeAndAfter) {
  Open();
  Submit(a_, 0);
  Submit(b_, 0);
  ASSERT_EQ(planner_.Poll(), Progress::kStep);
  planner_.Account();
  const GroupCounters c = statistics_->Counters();
  EXPECT_EQ(c.steps_planned, 1u);
  EXPECT_EQ(c.tokens_sum, 240u);
  EXPECT_EQ(c.peak_before_sum, 200u);  // experts 0 and 1 on rank 0: 180 + 20
  EXPECT_LE(c.peak_sum, 121u);
  EXPECT_EQ(c.last_peak_before, 200u);
  EXPECT_EQ(c.last_tokens, 240u);
  EXPECT_EQ(c.last_peak, c.peak_sum);
}

}  // namespace
}  // namespace ultraep

#include "plugin/core/steps.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "daemon/session/step_planner.h"
#include "tests/support/memory_group.h"

namespace ultraep {
namespace {

using test::MemoryGroup;
using test::SmallConfig;

constexpr uint64_t kMs = 1'000'000;

class StepsTest : public testing::Test {
 protected:
  void Open() { OpenGate(group_.boards().gate()); }
  Gate gate() { return LoadGate(group_.boards().gate()); }
  Result Submit(Steps& steps, uint64_t s, uint32_t hot = 0) {
    std::vector<uint32_t> row(4, 10);
    row[hot] = 100;
    return steps.Submit(s, 0, 0, row.data(), 4);
  }

  GroupConfig config_ = SmallConfig(2, 4, 1, 2);
  MemoryGroup group_{config_};
  Steps a_{config_, 0}, b_{config_, 0};
  ResolvedStep step_;
};

TEST_F(StepsTest, WithoutADaemonEveryStepIsDeclinedAndGoesToTheMains) {
  ASSERT_TRUE(Submit(a_, 0).ok());
  ASSERT_TRUE(a_.Await(0, 0, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_DECLINED);
  EXPECT_TRUE(step_.plan.replicas.empty());
}

TEST_F(StepsTest, AStepDeclinedWhileTheGateIsClosedRaisesTheFirstPlannedStepAboveIt) {
  a_.Adopt(group_.Attach(0));
  for (uint64_t s = 0; s < 3; ++s) {
    ASSERT_TRUE(Submit(a_, s).ok());
    ASSERT_TRUE(a_.Await(s, 0, &step_).ok());
    EXPECT_EQ(step_.verdict, ULTRAEP_DECLINED);
  }
  Open();
  EXPECT_EQ(gate().value, 3u);
}

TEST_F(StepsTest, AdoptingRaisesTheGateToTheRanksNextStepOfThatMoment) {
  for (uint64_t s = 0; s < 5; ++s) {
    ASSERT_TRUE(Submit(a_, s).ok());
    ASSERT_TRUE(a_.Await(s, 0, &step_).ok());
  }
  a_.Adopt(group_.Attach(0));
  EXPECT_EQ(gate().value, 5u);
}

TEST_F(StepsTest, AStepBelowTheFirstPlannedOneIsDeclinedAlsoWhenTheGateIsOpen) {
  RaiseGate(group_.boards().gate(), 2);
  a_.Adopt(group_.Attach(0));
  Open();
  ASSERT_TRUE(Submit(a_, 0).ok());
  ASSERT_TRUE(a_.Await(0, 0, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_DECLINED);
  EXPECT_EQ(gate().value, 2u);
}

TEST_F(StepsTest, TheWindowRefusesAStepBeforeStepSMinusKIsResolved) {
  a_.Adopt(group_.Attach(0));
  Open();
  ASSERT_TRUE(Submit(a_, 0).ok());
  ASSERT_TRUE(Submit(a_, 1).ok());
  Result full = Submit(a_, 2);
  EXPECT_EQ(full.status, ULTRAEP_INVALID);
  EXPECT_NE(full.text.find("window is 2"), std::string::npos) << full.text;
  EndGate(group_.boards().gate());
  ASSERT_TRUE(a_.Await(0, kMs, &step_).ok());
  EXPECT_TRUE(Submit(a_, 2).ok());
}

TEST_F(StepsTest, SequencesAndArgumentsOutOfOrderAreRefusedWithBothValues) {
  std::vector<uint32_t> row(4, UINT32_MAX);
  EXPECT_EQ(Submit(a_, 1).text, "sequence is 1, the next one is 0");
  EXPECT_EQ(a_.Submit(0, 0, 0, row.data(), 3).text, "row has 3 experts, the group has 4");
  EXPECT_EQ(a_.Submit(0, 4, 0, row.data(), 4).text, "layer is 4, the group has 4 layers");
  EXPECT_EQ(a_.Submit(0, 0, 0, row.data(), 4).text,
            "the row's sum is 17179869180 tokens, the limit is 4294967295");
  EXPECT_EQ(a_.Await(0, 0, &step_).status, ULTRAEP_INVALID);
  EXPECT_TRUE(Submit(a_, 0).ok()) << "nothing was changed by the refusals";
}

TEST_F(StepsTest, MissingRowsEndTheGenerationAtTheStepTimeoutAndThenFallBack) {
  auto generation = group_.Attach(0);
  generation->settings.step_timeout_ns = 20 * kMs;
  a_.Adopt(generation);
  Open();
  ASSERT_TRUE(Submit(a_, 0).ok());
  EXPECT_EQ(a_.Await(0, 1 * kMs, &step_).status, ULTRAEP_TIMEOUT) << "may be repeated";
  EXPECT_EQ(gate().state, GateState::kOpen);
  ASSERT_TRUE(a_.Await(0, 5000 * kMs, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_FALLBACK);
  EXPECT_EQ(gate().state, GateState::kEnded);
  ASSERT_TRUE(Submit(a_, 1).ok());
  ASSERT_TRUE(a_.Await(1, 0, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_DECLINED);
}

TEST_F(StepsTest, TheSolveDeadlineCountsFromCollectedAndLeavesTheGenerationOpen) {
  a_.Adopt(group_.Attach(0, 5 * kMs));
  Open();
  ASSERT_TRUE(Submit(a_, 0).ok());
  EXPECT_EQ(a_.Await(0, 30 * kMs, &step_).status, ULTRAEP_TIMEOUT)
      << "rows are missing: nobody may propose FALLBACK";
  group_.boards().collected(0).value.store(1);
  ASSERT_TRUE(a_.Await(0, 5000 * kMs, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_FALLBACK);
  EXPECT_EQ(gate().state, GateState::kOpen);
}

TEST_F(StepsTest, AVerdictThatIsThereWinsOverEveryClock) {
  a_.Adopt(group_.Attach(0, 0));
  b_.Adopt(group_.Attach(1, 0));
  Open();
  ASSERT_TRUE(Submit(a_, 0).ok());
  ASSERT_TRUE(Submit(b_, 0).ok());
  StepPlanner planner(group_.boards(), MemoryGroup::kGeneration, {},
                      std::make_shared<StepStatistics>());
  EXPECT_EQ(planner.Poll(), StepPlanner::Progress::kStep);
  EndGate(group_.boards().gate());
  ASSERT_TRUE(a_.Await(0, 0, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_PLAN);
  EXPECT_FALSE(step_.plan.replicas.empty());
  ASSERT_TRUE(b_.Await(0, 0, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_PLAN);
}

TEST_F(StepsTest, APlanReadWhileTheGateHasFailedIsFailedForEveryRankOnceAndThenStepsAreDeclined) {
  a_.Adopt(group_.Attach(0));
  b_.Adopt(group_.Attach(1));
  Open();
  ASSERT_TRUE(Submit(a_, 0).ok());
  ASSERT_TRUE(Submit(b_, 0).ok());
  StepPlanner planner(group_.boards(), MemoryGroup::kGeneration, {},
                      std::make_shared<StepStatistics>());
  ASSERT_EQ(planner.Poll(), StepPlanner::Progress::kStep);
  FailGate(group_.boards().gate());
  EXPECT_EQ(a_.Await(0, 0, &step_).status, ULTRAEP_FAILED);
  EXPECT_EQ(group_.boards().rank(0).statistics.failed, 1u);
  EXPECT_EQ(group_.boards().rank(0).statistics.fallback, 0u);
  ASSERT_TRUE(Submit(a_, 1).ok()) << "told already";
  ASSERT_TRUE(a_.Await(1, 0, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_DECLINED);
}

TEST_F(StepsTest, ARankPastTheFailedStepLearnsAtItsNextSubmitWhichMayBeRepeated) {
  a_.Adopt(group_.Attach(0));
  Open();
  FailGate(group_.boards().gate());
  EXPECT_EQ(Submit(a_, 0).status, ULTRAEP_FAILED);
  EXPECT_EQ(a_.next_sequence(), 0u) << "nothing was submitted";
  ASSERT_TRUE(Submit(a_, 0).ok());
  ASSERT_TRUE(a_.Await(0, 0, &step_).ok());
  EXPECT_EQ(step_.verdict, ULTRAEP_DECLINED);
}

TEST_F(StepsTest, ALappedWordIsALostLeaseAndNeverFallback) {
  a_.Adopt(group_.Attach(0));
  Open();
  ASSERT_TRUE(Submit(a_, 0).ok());
  bool won;
  Propose(group_.boards().word(0), 4, Verdict::kPlan, &won);  // ring of 2K = 4 words
  Result lost = a_.Await(0, kMs, &step_);
  EXPECT_EQ(lost.status, ULTRAEP_FAILED);
  EXPECT_NE(lost.text.find("lost its lease"), std::string::npos) << lost.text;
  EXPECT_EQ(gate().state, GateState::kFailed);
}

TEST_F(StepsTest, ResolvingAllOpenStepsEndsTheGenerationFirst) {
  a_.Adopt(group_.Attach(0));
  Open();
  ASSERT_TRUE(Submit(a_, 0).ok());
  ASSERT_TRUE(Submit(a_, 1).ok());
  a_.ResolveAll();
  EXPECT_FALSE(a_.has_open_steps());
  EXPECT_EQ(gate().state, GateState::kEnded);
}

// A record that was changed anywhere is never followed and never falls back: the group fails.
TEST_F(StepsTest, ARecordWithAnyFlippedByteFailsTheGroup) {
  const uint64_t used = sizeof(PlanHeader) + sizeof(Replica);
  uint64_t tried = 0;
  for (uint64_t at = 0; at < used; ++at) {
    if (at >= 88 && at < sizeof(PlanHeader)) continue;  // zero bytes behind the header's fields
    MemoryGroup group(config_);
    Steps a(config_, 0), b(config_, 0);
    a.Adopt(group.Attach(0));
    b.Adopt(group.Attach(1));
    OpenGate(group.boards().gate());
    ASSERT_TRUE(Submit(a, 0).ok());
    ASSERT_TRUE(Submit(b, 0).ok());
    StepPlanner planner(group.boards(), MemoryGroup::kGeneration, {}, std::make_shared<StepStatistics>());
    ASSERT_EQ(planner.Poll(), StepPlanner::Progress::kStep);
    group.boards().record(0)[at] ^= 0x41;
    ResolvedStep step;
    EXPECT_EQ(a.Await(0, 0, &step).status, ULTRAEP_FAILED) << "byte " << at;
    EXPECT_EQ(LoadGate(group.boards().gate()).state, GateState::kFailed);
    ++tried;
  }
  EXPECT_GT(tried, 100u);
}

}  // namespace
}  // namespace ultraep

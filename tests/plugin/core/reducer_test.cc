#include "plugin/core/reducer.h"

#include <gtest/gtest.h>

#include <ctime>
#include <thread>

#include "tests/support/memory_group.h"

namespace ultraep {
namespace {

using test::MemoryGroup;

constexpr uint64_t kMs = 1'000'000;

GroupConfig Config() {
  GroupConfig c = test::SmallConfig(3, 3, 1, 2);
  c.slot_sets = 2;
  c.training = 1;
  c.gradient_count = 2;
  c.gradient_bytes[0] = 400'004;  // a tile and a half
  c.gradient_bytes[1] = 12;
  return c;
}

const std::vector<Replica> kFirst = {{0, 1, 0, -1, 0, 5}, {0, 2, 0, -1, 0, 5}};
const std::vector<Replica> kSecond = {{2, 1, 0, -1, 0, 5}};  // rank 1's slot has another home

// Three ranks, one expert each; main gradients begin at 1000.
class ReducerTest : public testing::Test {
 protected:
  ReducerTest() {
    OpenGate(group_.boards().gate());
    for (uint32_t r = 0; r < 3; ++r) {
      ranks_.push_back(group_.Attach(r));
      for (uint32_t i = 0; i < 2; ++i) {
        weights_[r][i].assign(config_.shard_bytes[i], 1);
        mains_[r][i].assign(config_.gradient_bytes[i] / 4, 1000);
      }
    }
  }

  void StreamOf(uint32_t r, const std::vector<Replica>& replicas, uint64_t sequence, uint32_t set) {
    RecordedPlan plan;
    plan.shape = config_.shape();
    plan.header.sequence = sequence;
    plan.replicas = replicas;
    const void* weights[] = {weights_[r][0].data(), weights_[r][1].data()};
    ASSERT_TRUE(ranks_[r]->streamer->Start(plan, false, set, weights, &streams_[set][r]).ok());
  }
  // On all ranks, to the end of the transfers.
  void Stream(const std::vector<Replica>& replicas, uint64_t sequence, uint32_t set = 0) {
    for (uint32_t r = 0; r < 3; ++r) StreamOf(r, replicas, sequence, set);
    for (uint32_t r = 0; r < 3; ++r)
      ASSERT_TRUE(ranks_[r]->streamer->AwaitArrival(streams_[set][r].get(), 10'000 * kMs).ok());
  }
  void Release(uint32_t set = 0) {
    for (uint32_t r = 0; r < 3; ++r)
      ASSERT_TRUE(ranks_[r]->streamer->Release(streams_[set][r].get(), 10'000 * kMs).ok());
  }
  Result Prepare(uint32_t r, uint64_t ms = 10'000, uint32_t set = 0, bool zero = true) {
    return ranks_[r]->reducer->Prepare(streams_[set][r].get(), zero, ms * kMs);
  }
  void Backward(uint32_t r, float value, uint32_t set = 0) {
    for (uint32_t i = 0; i < 2; ++i) {
      float* at = group_.boards().slot_view().gradient(r, set, 0, i);
      for (uint64_t k = 0; k < config_.gradient_bytes[i] / 4; ++k) at[k] += value;
    }
  }
  Result Start(uint32_t r, uint32_t set = 0) {
    void* mains[] = {mains_[r][0].data(), mains_[r][1].data()};
    return ranks_[r]->reducer->Start(*streams_[set][r], mains, GradientType::kFloat32, false,
                                     &reduces_[set][r]);
  }
  Result Await(uint32_t r, uint64_t ms = 10'000, uint32_t set = 0) {
    return ranks_[r]->reducer->Await(reduces_[set][r].get(), ms * kMs);
  }
  bool MainIs(uint32_t r, float value) {
    for (uint32_t i = 0; i < 2; ++i)
      for (const float m : mains_[r][i])
        if (m != value) return false;
    return true;
  }
  GateState gate() { return LoadGate(group_.boards().gate()).state; }

  GroupConfig config_ = Config();
  MemoryGroup group_{config_, 2};
  std::vector<unsigned char> weights_[3][2];
  std::vector<float> mains_[3][2];
  std::shared_ptr<ultraep::Stream> streams_[2][3];
  std::shared_ptr<Reduce> reduces_[2][3];
  std::vector<std::shared_ptr<Generation>> ranks_;
};

TEST_F(ReducerTest, TheHomeAddsTheGradientsOfAllReplicas) {
  Stream(kFirst, 0);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
  Backward(1, 5);
  Backward(2, 70);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r).ok());
  Release();  // the weights' slots do not wait for the sums
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Await(r).ok());
  EXPECT_TRUE(MainIs(0, 1075));
  EXPECT_TRUE(MainIs(1, 1000));
  EXPECT_TRUE(MainIs(2, 1000));
  EXPECT_EQ(ranks_[0]->reducer->Tally(*reduces_[0][0]).bytes, 2 * 400'016u);
  TransferTotals totals;
  CopyFromShared(&totals, &group_.boards().rank(0).statistics.transfers, sizeof totals);
  EXPECT_EQ(totals.reductions, 1u);
  const LatencyHistogram& reduce = group_.boards().rank(0).statistics.reduce;
  EXPECT_EQ(reduce.count(), 1u);
  EXPECT_EQ(reduce.sum_ns, totals.reduce_ns);
  EXPECT_EQ(totals.replicas, 2u);
  EXPECT_EQ(totals.reduced_bytes, 2 * 400'016u);
  EXPECT_EQ(totals.sends, 1u);
  EXPECT_EQ(totals.arrivals, 0u);
  EXPECT_EQ(totals.transfers, 2u);
}

TEST_F(ReducerTest, PreparingZeroesOnlyWhenAskedTo) {
  Stream(kFirst, 0);
  Backward(1, 9);
  ASSERT_TRUE(Prepare(1, 100, 0, /*zero=*/false).ok());
  EXPECT_EQ(group_.boards().slot_view().gradient(1, 0, 0, 1)[2], 9);
  ASSERT_TRUE(Prepare(1).ok());
  EXPECT_EQ(group_.boards().slot_view().gradient(1, 0, 0, 1)[2], 0);
}

TEST_F(ReducerTest, ASlotIsNotPreparedBeforeTheHomeItLastWasForHasTakenIt) {
  Stream(kFirst, 0);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
  Backward(1, 5);
  ASSERT_TRUE(Start(1).ok());
  ASSERT_TRUE(Start(2).ok());
  ASSERT_TRUE(Await(1).ok());
  Release();
  for (uint32_t r : {1u, 2u}) StreamOf(r, kSecond, 1, 0);  // rank 0 is late
  Result held = Prepare(1, 30);
  EXPECT_EQ(held.status, ULTRAEP_TIMEOUT);
  EXPECT_NE(held.text.find("still holds a gradient for rank 0"), std::string::npos) << held.text;
  EXPECT_EQ(group_.boards().slot_view().gradient(1, 0, 0, 0)[0], 5) << "not zeroed";
  EXPECT_TRUE(Prepare(2, 0).ok()) << "its slot is not used now";
  ASSERT_TRUE(Start(0).ok());
  EXPECT_TRUE(Prepare(1).ok());
  ASSERT_TRUE(Await(0).ok());
  EXPECT_TRUE(MainIs(0, 1005));
}

TEST_F(ReducerTest, AReplicaThatDiedFailsItsHomeAtOnceAndIsNamed) {
  Stream(kFirst, 0);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
  ASSERT_TRUE(Start(1).ok());
  ASSERT_TRUE(Start(0).ok());
  EXPECT_EQ(Await(0, 20).status, ULTRAEP_TIMEOUT) << "rank 2 is missing";
  group_.SetMember(2, MemberState::kGone);
  const uint64_t start = NowNs();
  Result failed = Await(0);
  EXPECT_EQ(failed.status, ULTRAEP_FAILED);
  EXPECT_NE(failed.text.find("rank 2 is gone"), std::string::npos) << failed.text;
  EXPECT_LT(NowNs() - start, 5'000 * kMs);
  EXPECT_EQ(gate(), GateState::kFailed);
  EXPECT_TRUE(MainIs(0, 1000)) << "nothing is added before all are there";
  EXPECT_EQ(Prepare(1).status, ULTRAEP_FAILED) << "rule 7";
  EXPECT_EQ(Start(2).status, ULTRAEP_FAILED);
}

TEST_F(ReducerTest, WhatAReplicaPublishedBeforeItDiedCounts) {
  Stream(kFirst, 0);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
  Backward(2, 3);
  ASSERT_TRUE(Start(1).ok());
  ASSERT_TRUE(Start(2).ok());
  group_.SetMember(2, MemberState::kGone);
  ASSERT_TRUE(Start(0).ok());
  EXPECT_TRUE(Await(0).ok());
  EXPECT_TRUE(MainIs(0, 1003));
}

TEST_F(ReducerTest, AHomeThatDiedFailsTheNextUseOfTheSlotAndIsNamed) {
  Stream(kFirst, 0);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
  ASSERT_TRUE(Start(1).ok());
  ASSERT_TRUE(Start(2).ok());
  Release();
  Stream(kSecond, 1);
  group_.SetMember(0, MemberState::kGone);
  Result failed = Prepare(1);
  EXPECT_EQ(failed.status, ULTRAEP_FAILED);
  EXPECT_NE(failed.text.find("for rank 0, which is gone"), std::string::npos) << failed.text;
  EXPECT_EQ(gate(), GateState::kFailed);
}

TEST_F(ReducerTest, ReductionsInAnotherOrderFailBeforeAnythingIsAdded) {
  Stream(kFirst, 0, 0);
  Stream(kFirst, 1, 1);
  for (uint32_t set : {0u, 1u})
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r, 100, set).ok());
  for (uint32_t set : {0u, 1u}) ASSERT_TRUE(Start(2, set).ok());
  for (uint32_t set : {1u, 0u}) ASSERT_TRUE(Start(1, set).ok());
  ASSERT_TRUE(Start(0, 0).ok());
  Result failed = Await(0, 10'000, 0);
  EXPECT_EQ(failed.status, ULTRAEP_FAILED);
  EXPECT_NE(failed.text.find("rank 1 is in another operation"), std::string::npos) << failed.text;
  EXPECT_TRUE(MainIs(0, 1000));
}

// Rank 1 never issues it.
TEST_F(ReducerTest, AReductionGivesUpAtTheStepTimeout) {
  for (auto& g : ranks_) g->settings.step_timeout_ns = 200 * kMs;
  Stream(kFirst, 0);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r, 100).ok());
  ASSERT_TRUE(Start(2).ok());
  ASSERT_TRUE(Start(0).ok());
  Result late = Await(0);
  EXPECT_EQ(late.status, ULTRAEP_FAILED);
  EXPECT_NE(late.text.find("rank 1 has not published the gradient of expert 0"), std::string::npos)
      << late.text;
  EXPECT_EQ(gate(), GateState::kFailed);
}

TEST_F(ReducerTest, PreparingGivesUpAtTheStepTimeoutAndShorterWaitsDoNot) {
  Stream(kFirst, 0);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
  for (uint32_t r : {1u, 2u}) ASSERT_TRUE(Start(r).ok());
  Release();
  Stream(kSecond, 1);
  ranks_[1]->settings.step_timeout_ns = 100 * kMs;
  EXPECT_EQ(Prepare(1, 20).status, ULTRAEP_TIMEOUT);
  EXPECT_EQ(gate(), GateState::kOpen);
  EXPECT_EQ(Prepare(1, 100).status, ULTRAEP_FAILED);
  EXPECT_EQ(gate(), GateState::kFailed);
}

uint64_t CpuNs() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000u + uint64_t(t.tv_nsec);
}

// A sender without its destination, homes without their gradients, and all threads that have
// nothing.
TEST_F(ReducerTest, WhoWaitsOrHasNothingToDoTakesNoCpu) {
  for (auto& g : ranks_) g->settings.spin_ns = 50'000;
  Stream(kFirst, 0);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
  for (uint32_t r : {0u, 1u}) ASSERT_TRUE(Start(r).ok());
  StreamOf(2, {{2, 0, 0, -1, 0, 1}}, 1, 1);
  const uint64_t before = CpuNs();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_LT(CpuNs() - before, 100 * kMs) << "half a second of waiting";
  FailGate(group_.boards().gate());
}

// Two operations under way add to the same main gradients: one after the other, also in two
// threads.
TEST_F(ReducerTest, ReductionsOfARankAddOneAfterTheOther) {
  for (uint64_t round = 0; round < 20; ++round) {
    for (uint32_t set : {0u, 1u}) {
      Stream(kFirst, 2 * round + set, set);
      for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r, 10'000, set).ok());
      Backward(1, 1, set);
      Backward(2, 2, set);
    }
    for (uint32_t set : {0u, 1u})
      for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r, set).ok());
    for (uint32_t set : {0u, 1u}) Release(set);
    for (uint32_t set : {0u, 1u})
      for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Await(r, 10'000, set).ok());
    ASSERT_TRUE(MainIs(0, 1000 + 6 * float(round + 1)));
  }
}

}  // namespace
}  // namespace ultraep

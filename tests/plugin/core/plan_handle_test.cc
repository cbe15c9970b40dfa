// Plans as the framework holds them, streamed and reduced by three ranks in one process: calls out
// of order, plans freed at any stage, and a system without memory. A binary of its own: it replaces
// operator new.
#include "plugin/core/plan_handle.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <new>
#include <thread>

#include "tests/support/memory_group.h"

namespace {

// Of this thread: how many allocations succeed before one fails; below 0: all.
thread_local int left_before_failure = -1;

}  // namespace

__attribute__((noinline)) void* operator new(size_t bytes) {
  if (left_before_failure >= 0 && left_before_failure-- == 0) throw std::bad_alloc();
  if (void* at = std::malloc(bytes)) return at;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* at) noexcept { std::free(at); }
__attribute__((noinline)) void operator delete(void* at, size_t) noexcept { std::free(at); }

namespace ultraep {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kLong = 10'000 * kMs;
constexpr uint64_t kElements = 1000;

const std::vector<Replica> kFan = {{0, 1, 0, -1, 0, 5}, {0, 2, 0, -1, 0, 5}};
const std::vector<Replica> kChain = {{0, 1, 0, -1, 0, 5}, {0, 2, 0, 0, 0, 5}};

class PlanHandleTest : public testing::Test {
 protected:
  void SetUp() override { Begin(kLong); }

  void Begin(uint64_t step_timeout_ns) {
    config_ = test::SmallConfig(3, 3, 1, 2);
    config_.training = config_.gradient_count = 1;
    config_.gradient_bytes[0] = kElements * 4;
    config_.step_timeout_ns = step_timeout_ns;
    group_ = std::make_unique<test::MemoryGroup>(config_);
    OpenGate(group_->boards().gate());
    for (uint32_t r = 0; r < 3; ++r) {
      generations_[r] = group_->Attach(r);
      memory_[r] = std::make_shared<MemorySwitch>();
      memory_[r]->Add(generations_[r]);
      memory_[r]->Load(0);
      for (uint32_t i = 0; i < 2; ++i) weights_[r][i].assign(config_.shard_bytes[i], 1);
      mains_[r].assign(kElements, 1);
    }
  }
  // A step's plan on all ranks.
  void Plan(uint64_t sequence, const std::vector<Replica>& replicas) {
    for (uint32_t r = 0; r < 3; ++r) {
      ResolvedStep step;
      step.verdict = ULTRAEP_PLAN;
      step.sequence = sequence;
      step.row.assign(3, 10);
      step.plan.shape = config_.shape();
      step.plan.header.sequence = sequence;
      step.plan.header.generation = test::MemoryGroup::kGeneration;
      step.plan.replicas = replicas;
      const std::vector<uint32_t> load(9, 10);
      step.plan.Close({load.data(), 3, 3});
      plans_[r] = new ultraep_plan(std::move(step), config_, r, memory_[r]);
    }
  }
  Result Stream(uint32_t r) {
    const void* weights[] = {weights_[r][0].data(), weights_[r][1].data()};
    return plans_[r]->Stream(0, weights);
  }
  Result Prepare(uint32_t r) { return plans_[r]->PrepareGradients(true, kLong); }
  Result Reduce(uint32_t r) {
    void* mains[] = {mains_[r].data()};
    return plans_[r]->ReduceGradients(mains, GradientType::kFloat32, false);
  }
  void StreamAndPrepare(uint64_t sequence = 0) {
    Plan(sequence, kFan);
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Stream(r).ok());
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
  }
  void Free() {
    for (auto* plan : plans_) plan->Free();
  }
  GateState gate() { return LoadGate(group_->boards().gate()).state; }

  GroupConfig config_;
  std::unique_ptr<test::MemoryGroup> group_;
  std::shared_ptr<Generation> generations_[3];
  std::shared_ptr<MemorySwitch> memory_[3];
  std::vector<unsigned char> weights_[3][2];
  std::vector<float> mains_[3];
  ultraep_plan* plans_[3] = {};
};

// Rank 1 is there before the step timeout, rank 2 after it. What the optimizer then does to rank
// 0's weights must not reach rank 1 as if it were the step's.
TEST_F(PlanHandleTest, AFreedPlanReadsNoWeightsAnyMore) {
  Begin(300 * kMs);
  Plan(0, kFan);
  ASSERT_TRUE(Stream(0).ok());
  std::thread others([&] {
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_TRUE(Stream(1).ok());
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_EQ(Stream(2).status, ULTRAEP_FAILED);
  });
  plans_[0]->Free();
  for (auto& w : weights_[0]) std::fill(w.begin(), w.end(), 0xee);
  EXPECT_EQ(gate(), GateState::kFailed);
  others.join();
  EXPECT_EQ(plans_[1]->AwaitWeights(kLong).status, ULTRAEP_FAILED);
  EXPECT_NE(group_->boards().shard(1, 0, 0, 0)[0], 0xee);
  plans_[1]->Free();
  plans_[2]->Free();
}

TEST_F(PlanHandleTest, AFreedPlanAddsToNoGradientAnyMore) {
  Begin(300 * kMs);
  StreamAndPrepare();
  ASSERT_TRUE(Reduce(0).ok());
  std::thread others([&] {
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_TRUE(Reduce(1).ok());
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_EQ(Reduce(2).status, ULTRAEP_FAILED);
  });
  plans_[0]->Free();
  EXPECT_EQ(gate(), GateState::kFailed);
  mains_[0].assign(kElements, 5);
  others.join();
  EXPECT_EQ(mains_[0], std::vector<float>(kElements, 5));
  plans_[1]->Free();
  plans_[2]->Free();
}

TEST_F(PlanHandleTest, AFreeAwaitsAReductionThatGoesOn) {
  StreamAndPrepare();
  ASSERT_TRUE(Reduce(0).ok());
  std::thread others([&] {
    std::this_thread::sleep_for(milliseconds(50));
    for (uint32_t r : {1u, 2u}) {
      generations_[r]->boards.slot_view().gradient(r, 0, 0, 0)[7] = 3;
      EXPECT_TRUE(Reduce(r).ok());
    }
  });
  plans_[0]->Free();
  EXPECT_EQ(mains_[0][7], 7);
  EXPECT_EQ(gate(), GateState::kOpen);
  others.join();
  plans_[1]->Free();
  plans_[2]->Free();
}

TEST_F(PlanHandleTest, WhatAFailureCostIsSaidByEveryFurtherCallAndNotByTheNextStep) {
  StreamAndPrepare();
  ASSERT_TRUE(Reduce(0).ok());
  group_->SetMember(2, MemberState::kGone);
  const Result lost = plans_[0]->AwaitGradients(kLong);
  EXPECT_EQ(lost.status, ULTRAEP_FAILED);
  EXPECT_TRUE(generations_[0]->failure_told) << "said once is enough for the next step";
  EXPECT_EQ(plans_[0]->AwaitGradients(kLong).text, lost.text);
  EXPECT_EQ(Reduce(1).status, ULTRAEP_FAILED);
  EXPECT_EQ(plans_[1]->AwaitGradients(kLong).status, ULTRAEP_FAILED);
  plans_[1]->Release(kLong);
  EXPECT_EQ(plans_[1]->Release(kLong).status, ULTRAEP_FAILED);
  Free();
}

// An exception in the framework's backward frees its plans.
TEST_F(PlanHandleTest, APreparedPlanThatIsFreedWithoutAReductionFailsTheGroupAtOnce) {
  StreamAndPrepare();
  for (uint32_t r : {0u, 2u}) ASSERT_TRUE(Reduce(r).ok());
  plans_[1]->Free();
  EXPECT_EQ(gate(), GateState::kFailed);
  EXPECT_EQ(plans_[0]->AwaitGradients(kLong).status, ULTRAEP_FAILED);
  plans_[0]->Free();
  plans_[2]->Free();
}

TEST_F(PlanHandleTest, NoBackwardIsWipedAndNoneIsForgotten) {
  StreamAndPrepare();
  uint32_t expert = 0;
  float* parts[ULTRAEP_MAX_SHARDS];
  ASSERT_TRUE(plans_[1]->Gradient(0, &expert, parts).ok());
  parts[0][0] = 7;
  Result refused = Prepare(1);
  EXPECT_EQ(refused.status, ULTRAEP_INVALID);
  EXPECT_NE(refused.text.find("prepared already"), std::string::npos) << refused.text;
  refused = plans_[1]->Release(kLong);
  EXPECT_EQ(refused.status, ULTRAEP_INVALID);
  EXPECT_NE(refused.text.find("reduce them first"), std::string::npos) << refused.text;
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Reduce(r).ok());
  for (auto* plan : plans_) EXPECT_TRUE(plan->Release(kLong).ok());
  for (auto* plan : plans_) EXPECT_TRUE(plan->AwaitGradients(kLong).ok());
  EXPECT_EQ(mains_[0][0], 8);
  Free();
}

// Two reductions of one stream, of gradient accumulation.
TEST_F(PlanHandleTest, TimeSpentPreparingIsThatOfTheReductionAlone) {
  Plan(0, kFan);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Stream(r).ok());
  uint64_t sum = 0;
  for (int round = 0; round < 3; ++round) {
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Reduce(r).ok());
    for (auto* plan : plans_) ASSERT_TRUE(plan->AwaitGradients(kLong).ok());
    ultraep_reduce_stats stats{};
    ASSERT_TRUE(plans_[1]->Stats(&stats).ok());
    sum += stats.prepare_ns;
  }
  TransferTotals totals;
  CopyFromShared(&totals, &group_->boards().rank(1).statistics.transfers, sizeof totals);
  EXPECT_EQ(totals.prepare_ns, sum);
  Free();
}

// A heartbeat would wake them too, after 100 ms: of 15 rounds none may need it.
TEST_F(PlanHandleTest, WhoSleepsIsWokenByWhatItWaitsFor) {
  uint64_t stream = 0, home = 0, next = 0;
  for (uint64_t step = 0; step < 15; ++step) {
    uint64_t since = 0;
    const auto late = [&](auto call) {
      return std::thread([&since, call] {
        std::this_thread::sleep_for(milliseconds(13));
        since = NowNs();
        EXPECT_TRUE(call().ok());
      });
    };
    const auto worst = [&](uint64_t* of) { *of = std::max(*of, NowNs() - since); };
    Plan(step, kChain);
    for (uint32_t r : {1u, 2u}) ASSERT_TRUE(Stream(r).ok());
    std::thread source = late([&] { return Stream(0); });
    ASSERT_TRUE(plans_[2]->AwaitWeights(kLong).ok());
    worst(&stream);
    source.join();
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Prepare(r).ok());
    for (uint32_t r : {0u, 1u}) ASSERT_TRUE(Reduce(r).ok());
    std::thread replica = late([&] { return Reduce(2); });
    ASSERT_TRUE(plans_[1]->AwaitGradients(kLong).ok());
    ASSERT_TRUE(Prepare(1).ok());  // its slot's gradient is taken
    worst(&next);
    ASSERT_TRUE(plans_[0]->AwaitGradients(kLong).ok());
    worst(&home);
    replica.join();
    ASSERT_TRUE(plans_[2]->AwaitGradients(kLong).ok());
    for (uint32_t r : {0u, 2u}) ASSERT_TRUE(Prepare(r).ok());
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Reduce(r).ok());
    for (auto* plan : plans_) ASSERT_TRUE(plan->Release(kLong).ok());
    Free();
  }
  EXPECT_LT(stream, 80 * kMs);
  EXPECT_LT(next, 80 * kMs);
  EXPECT_LT(home, 80 * kMs);
}

// Each allocation of every call fails once; the call says so, issues nothing, and may be repeated.
TEST_F(PlanHandleTest, ACallThatRunsOutOfMemoryMayBeRepeated) {
  bool threw = true;
  for (int n = 0; threw; ++n) {
    ASSERT_LT(n, 200);
    Begin(kLong);
    Plan(0, kFan);
    threw = false;
    const auto twice = [&](const auto& call) {
      Result result;
      try {
        left_before_failure = n;
        result = call();
        left_before_failure = -1;
      } catch (const std::bad_alloc&) {
        left_before_failure = -1;
        threw = true;
        result = call();
      }
      ASSERT_TRUE(result.ok()) << result.text << ", allocation " << n;
    };
    twice([&] { return Stream(0); });
    for (uint32_t r : {1u, 2u}) ASSERT_TRUE(Stream(r).ok());
    twice([&] { return Prepare(0); });
    for (uint32_t r : {1u, 2u}) ASSERT_TRUE(Prepare(r).ok());
    for (uint32_t r : {1u, 2u}) generations_[r]->boards.slot_view().gradient(r, 0, 0, 0)[0] = 7;
    twice([&] { return Reduce(0); });
    for (uint32_t r : {1u, 2u}) ASSERT_TRUE(Reduce(r).ok());
    twice([&] { return plans_[0]->Release(kLong); });
    twice([&] { return plans_[0]->AwaitGradients(kLong); });
    EXPECT_EQ(mains_[0][0], 15) << "allocation " << n;
    Free();
  }
}

// A caller that does not repeat it: the peers learn at once that they wait in vain.
TEST_F(PlanHandleTest, AfterACallThatRanOutOfMemoryAFreeFailsTheGroup) {
  const auto fails = [&](const auto& call) {
    left_before_failure = 0;
    EXPECT_THROW(call(), std::bad_alloc);
    left_before_failure = -1;
  };
  StreamAndPrepare();
  for (uint32_t r : {0u, 2u}) ASSERT_TRUE(Reduce(r).ok());
  fails([&] { return Reduce(1); });
  plans_[1]->Free();
  EXPECT_EQ(plans_[0]->AwaitGradients(kLong).status, ULTRAEP_FAILED);
  plans_[0]->Free();
  plans_[2]->Free();

  Begin(kLong);
  Plan(0, kFan);
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Stream(r).ok());
  for (auto* plan : plans_) ASSERT_TRUE(plan->Release(kLong).ok());
  for (uint32_t r : {1u, 2u}) ASSERT_TRUE(Stream(r).ok());
  fails([&] { return Stream(0); });  // a restore
  plans_[0]->Free();
  EXPECT_EQ(plans_[1]->AwaitWeights(kLong).status, ULTRAEP_FAILED);
  plans_[1]->Free();
  plans_[2]->Free();
}

TEST_F(PlanHandleTest, AFreeWithoutMemoryDoesNotEndTheProcess) {
  StreamAndPrepare();
  ASSERT_TRUE(Reduce(0).ok());
  group_->SetMember(2, MemberState::kGone);
  left_before_failure = 0;
  plans_[0]->Free();
  left_before_failure = -1;
  EXPECT_EQ(gate(), GateState::kFailed);
  plans_[1]->Free();
  plans_[2]->Free();
}

}  // namespace
}  // namespace ultraep

// What goes wrong on a GPU is named, fails the step and nothing else, and nobody hangs.
#include <chrono>

#include "tests/support/device_group.h"

namespace ultraep {
namespace {

using test::DeviceConfig;
using test::DeviceGroupTest;
using test::DeviceRank;

class DeviceFailureTest : public DeviceGroupTest {
 protected:
  // A short step_timeout: what never comes is given up in the test's time.
  static ultraep_group_config Hasty(uint32_t ranks) {
    ultraep_group_config config = DeviceConfig(ranks);
    config.step_timeout_ns = 1'500'000'000;
    return config;
  }
  std::string FailureOf(uint32_t rank) {
    std::string text;
    return ranks_[rank]->Check(&text) == ULTRAEP_FAILED ? text : "nothing failed";
  }
  // One rank's forward step, without its release.
  static void Forward(DeviceRank& rank, uint64_t step, uint32_t set) {
    rank.SetIds(rank.Ids(step));
    rank.Enqueue(set);
  }
  // The group plans again, and nothing is wrong any more.
  void Recovers(uint64_t step) {
    std::string text;
    for (auto& rank : ranks_) rank->Check(&text);
    for (auto& rank : ranks_) rank->ClearErrors();
    StepsUntilPlanned(&step);
    for (auto& rank : ranks_) rank->Check(&text);
    EXPECT_EQ(Step(step), ULTRAEP_PLAN);
    NothingFailed();
  }
};

TEST_F(DeviceFailureTest, IdsThatAreNotThoseOfTheRow) {
  Begin(Hasty(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  Each([&](DeviceRank& rank) {
    rank.SetIds(rank.Ids(1));
    ultraep_cuda_submit_ids(rank.plan(), 0, 0, rank.ids(), test::kStepTokens * test::kStepTopK,
                            rank.stream());
    ultraep_cuda_await_verdict(rank.plan(), rank.stream());
    rank.Synchronize();
    if (&rank == ranks_[0].get()) rank.SetIds(rank.Ids(2));
    ultraep_cuda_route(rank.plan(), rank.ids(), test::kStepTokens, test::kStepTopK, rank.physical(),
                       rank.stream());
    rank.Synchronize();
  });
  EXPECT_NE(FailureOf(0).find("the submitted row says otherwise"), std::string::npos);
  Recovers(2);
}

TEST_F(DeviceFailureTest, ASlotSetThatIsNotReleased) {
  Begin(Hasty(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  std::vector<ultraep_cuda_plan*> second(2);
  for (size_t r = 0; r < 2; ++r)
    ASSERT_EQ(ultraep_cuda_plan_create(ranks_[r]->client(), &second[r]), ULTRAEP_OK);
  Each([&](DeviceRank& rank) {
    Forward(rank, 1, 0);
    ultraep_cuda_plan* plan = second[&rank == ranks_[1].get()];
    ultraep_cuda_submit_ids(plan, 0, 0, rank.ids(), test::kStepTokens * test::kStepTopK,
                            rank.stream());
    ultraep_cuda_await_verdict(plan, rank.stream());
    ultraep_cuda_stream_weights(plan, 0, ULTRAEP_BY_PLAIN_COPIES, rank.stream());
    ultraep_cuda_await_weights(plan, rank.stream());
    ultraep_cuda_release(plan, rank.stream());
    rank.Release();
    rank.Synchronize();
  });
  // The first to find it says so; the other one may have been stopped by that before.
  const std::string all = FailureOf(0) + FailureOf(1);
  EXPECT_NE(all.find("slot set 0 is in use by the plan of step 1"), std::string::npos) << all;
  for (auto* plan : second) ultraep_cuda_plan_free(plan);
  Recovers(3);
}

// A restore that only one rank makes: the others are in another operation.
TEST_F(DeviceFailureTest, RanksThatStreamInDifferentOrders) {
  Begin(Hasty(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  Each([&](DeviceRank& rank) {
    if (&rank == ranks_[1].get()) {
      ultraep_cuda_stream_weights(rank.plan(), 1, ULTRAEP_BY_PLAIN_COPIES, rank.stream());
      ultraep_cuda_await_weights(rank.plan(), rank.stream());
      ultraep_cuda_release(rank.plan(), rank.stream());
    }
    Forward(rank, 1, 0);
    rank.Release();
    rank.Synchronize();
  });
  const std::string all = FailureOf(0) + FailureOf(1);
  EXPECT_TRUE(all.find("has not issued the stream") != std::string::npos ||
              all.find("have not arrived") != std::string::npos)
      << all;
  Recovers(2);
}

TEST_F(DeviceFailureTest, MoreStepsThanTheWindowHolds) {
  Begin(Hasty(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  Each([&](DeviceRank& rank) {
    ultraep_cuda_plan* plans[3] = {};
    for (auto*& plan : plans) {
      ultraep_cuda_plan_create(rank.client(), &plan);
      ultraep_cuda_submit_ids(plan, 0, 0, rank.ids(), 8, rank.stream());
    }
    for (int i = 0; i < 2; ++i) ultraep_cuda_await_verdict(plans[i], rank.stream());
    rank.Synchronize();
    for (auto* plan : plans) ultraep_cuda_plan_free(plan);
  });
  EXPECT_NE(FailureOf(0).find("calls came in an impossible order"), std::string::npos);
  Recovers(3);
}

// It submits nothing, the others wait for its row, up to step_timeout, then go on.
TEST_F(DeviceFailureTest, ARankThatDoesNotComeIsWaitedForUpToStepTimeout) {
  ultraep_group_config config = DeviceConfig(3);
  config.step_timeout_ns = 300'000'000;
  Begin(config);
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  for (size_t r = 0; r < 2; ++r) Forward(*ranks_[r], 1, 0);
  for (size_t r = 0; r < 2; ++r) {
    ranks_[r]->Release();
    ranks_[r]->Synchronize();
    EXPECT_NE(ranks_[r]->Look(true).info.verdict, ULTRAEP_PLAN);
  }
  NothingFailed();
  Forward(*ranks_[2], 1, 0);
  ranks_[2]->Release();
  ranks_[2]->Synchronize();
  uint64_t step = 2;
  StepsUntilPlanned(&step);
  NothingFailed();
}

// Kernels under way end by the stop words; nothing that they use goes before.
TEST_F(DeviceFailureTest, DetachingWhileKernelsWait) {
  Begin(DeviceConfig(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  Forward(*ranks_[0], 1, 0);  // waits for rank 1's row
  ranks_[1] = nullptr;
  ranks_[0]->Synchronize();
  EXPECT_NE(ranks_[0]->Look(true).info.verdict, ULTRAEP_PLAN);
  ranks_[0]->Release();
  ranks_[0]->Synchronize();
}

// Also an await whose row comes after the client has left, and even after its carrier is gone.
TEST_F(DeviceFailureTest, DetachingBeforeTheLastKernelsRun) {
  Begin(DeviceConfig(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  const auto start = std::chrono::steady_clock::now();
  Each([](DeviceRank& rank) {
    rank.SetIds(rank.Ids(1));
    for (int i = 0; i < 40; ++i) {
      rank.Enqueue(0);
      rank.Release();
    }
    rank.Leave();  // some of these steps' kernels have not run
  });
  ranks_.clear();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST_F(DeviceFailureTest, ArgumentsAreCheckedAtTheCall) {
  Begin(DeviceConfig(2));
  DeviceRank& rank = *ranks_[0];
  ultraep_cuda_plan* plan = rank.plan();
  const auto invalid = [](ultraep_status status, const std::string& text) {
    EXPECT_EQ(status, ULTRAEP_INVALID);
    EXPECT_NE(std::string(ultraep_last_error()).find(text), std::string::npos)
        << ultraep_last_error();
  };
  int32_t* ids = rank.ids();
  invalid(ultraep_cuda_submit_ids(plan, 2, 0, ids, 8, rank.stream()), "the group has 2 layers");
  invalid(ultraep_cuda_submit_ids(plan, 0, 0, nullptr, 8, rank.stream()), "ids is NULL");
  invalid(ultraep_cuda_await_verdict(plan, rank.stream()), "submit the plan's step first");
  invalid(ultraep_cuda_submit_ids(
              plan, 0, 0, reinterpret_cast<const int32_t*>(reinterpret_cast<const char*>(ids) + 2),
              8, rank.stream()),
          "ids is not on 4 bytes");
  invalid(ultraep_cuda_submit_ids(nullptr, 0, 0, ids, 8, rank.stream()), "plan is NULL");
  invalid(ultraep_cuda_stream_weights(plan, 2, 0, rank.stream()), "slot_set is 2");
  invalid(ultraep_cuda_stream_weights(plan, 0, 3, rank.stream()), "transfer is 3");
  invalid(ultraep_cuda_route(plan, ids, 4, 2, ids, rank.stream()), "the same memory");
  invalid(ultraep_cuda_route(plan, ids, uint64_t{1} << 40, 1 << 30, rank.physical(), rank.stream()),
          "the limit is");
  invalid(ultraep_cuda_await_weights(plan, rank.stream()), "not streamed");
  invalid(ultraep_cuda_prepare_gradients(plan, 1, rank.stream()), "stream the plan's weights");
  invalid(ultraep_cuda_reduce_gradients(plan, 0, rank.stream()), "after they were prepared");
  const void* mains[4] = {};
  invalid(ultraep_cuda_set_main_weights(rank.client(), 0, mains), "main_weights[0] is NULL");
  invalid(ultraep_cuda_set_main_weights(rank.client(), 5, mains), "layer is 5");
  void* gradients[4] = {reinterpret_cast<void*>(2)};
  invalid(ultraep_cuda_set_main_gradients(rank.client(), 0, gradients, ULTRAEP_FLOAT32),
          "not on 4 bytes");
  invalid(ultraep_cuda_set_main_gradients(rank.client(), 0, gradients, 7), "type is 7");
  const uint32_t row[4] = {};
  invalid(ultraep_submit_load(rank.client(), 0, 0, 0, row, 4), "ultraep_cuda.h");
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);  // nothing of that has moved anything
  NothingFailed();
}

}  // namespace
}  // namespace ultraep

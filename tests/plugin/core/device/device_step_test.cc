// Steps of a group whose slots are on GPUs, end to end: the real daemon, plugin and backend; only
// the driver is the tests' own, or a real one where there is a device.
#include <atomic>
#include <chrono>
#include <set>

#include "tests/support/cuda_graph.h"
#include "tests/support/device_group.h"
#include "tests/support/fake_cuda/fake_cuda.h"

namespace ultraep {
namespace {

using test::DeviceConfig;
using test::DeviceGroupTest;
using test::DeviceRank;
using test::StepOutcome;

using DeviceStep = DeviceGroupTest;

TEST_F(DeviceStep, PlansAndStreamsInEachKindOfTransfer) {
  for (const uint32_t transfer :
       {ULTRAEP_BY_BULK_COPIES, ULTRAEP_BY_PLAIN_COPIES, ULTRAEP_BY_COPY_ENGINE}) {
    Begin(DeviceConfig(4), transfer);
    uint64_t planned = 0;
    for (uint64_t step = 0; step < 12; ++step) planned += Step(step, step % 2) == ULTRAEP_PLAN;
    EXPECT_GE(planned, 10u) << "transfer " << transfer;
    NothingFailed();
    ranks_.clear();
  }
}

TEST_F(DeviceStep, BalancesTheLoad) {
  Begin(DeviceConfig(4));
  std::vector<StepOutcome> outcomes(4);
  std::vector<std::thread> threads;
  for (size_t r = 0; r < 4; ++r)
    threads.emplace_back([&, r] { outcomes[r] = ranks_[r]->Step(0); });
  for (auto& t : threads) t.join();
  const ultraep_plan_info& info = outcomes[0].info;
  ASSERT_EQ(info.verdict, ULTRAEP_PLAN);
  EXPECT_GT(info.replica_count, 0u);
  EXPECT_LT(info.peak, info.peak_before);
  EXPECT_GE(info.peak, info.lower_bound);
  EXPECT_GT(info.total_tokens, 0u);
}

TEST_F(DeviceStep, TrainsWithRestoresAndReducedGradients) {
  ultraep_group_config config = DeviceConfig(3);
  Begin(config);
  const uint32_t own = config.experts / config.ranks;
  std::vector<std::vector<float>> expected(config.experts * config.gradient_count);
  for (uint32_t i = 0; i < expected.size(); ++i)
    expected[i].resize(config.gradient_bytes[i % config.gradient_count] / sizeof(float));
  for (uint64_t step = 0; step < 6; ++step) {
    std::vector<StepOutcome> outcomes(ranks_.size());
    std::vector<std::string> wrong(ranks_.size());
    std::vector<std::thread> threads;
    for (size_t r = 0; r < ranks_.size(); ++r)
      threads.emplace_back([&, r] {
        outcomes[r] = ranks_[r]->Step(step, step % 2);
        wrong[r] = ranks_[r]->Backward((step + 1) % 2);  // another set than the forward's
      });
    for (auto& t : threads) t.join();
    ASSERT_EQ(test::CheckStep(config, outcomes), "");
    for (const std::string& w : wrong) ASSERT_EQ(w, "");
    std::set<std::pair<uint32_t, uint32_t>> in_rank_order;
    for (const ultraep_replica& r : outcomes[0].replicas) in_rank_order.insert({r.expert, r.rank});
    for (const auto& [expert, rank] : in_rank_order)
      for (uint32_t p = 0; p < config.gradient_count; ++p)
        for (uint64_t i = 0; i < expected[expert * config.gradient_count + p].size(); ++i)
          expected[expert * config.gradient_count + p][i] +=
              DeviceRank::GradientOf(expert, rank, i);
  }
  for (uint32_t e = 0; e < config.experts; ++e)
    for (uint32_t p = 0; p < config.gradient_count; ++p)
      EXPECT_EQ(ranks_[e / own]->MainGradient(e % own, p),
                expected[e * config.gradient_count + p])
          << "expert " << e << " part " << p;
  NothingFailed();
}

TEST_F(DeviceStep, WithoutADaemonTokensGoToTheMains) {
  ultraep_group_config config = config_ = DeviceConfig(2);
  config.step_timeout_ns = 200'000'000;
  for (uint32_t r = 0; r < 2; ++r)
    ranks_.push_back(
        std::make_unique<DeviceRank>(socket_, config, test::DeviceRankOptions{r, 0, 0}));
  Each([](DeviceRank& rank) { EXPECT_EQ(rank.Join(), ULTRAEP_TIMEOUT); });
  for (uint64_t step = 0; step < 5; ++step) EXPECT_EQ(Step(step), ULTRAEP_DECLINED);
  NothingFailed();
}

TEST_F(DeviceStep, GoesOnOverARestartOfTheDaemon) {
  Begin(DeviceConfig(3));
  uint64_t step = 0;
  EXPECT_LE(StepsUntilPlanned(&step), 2u);
  for (int restart = 0; restart < 3; ++restart) {
    daemon_ = nullptr;
    for (int i = 0; i < 3; ++i) EXPECT_NE(Step(step++), ULTRAEP_PLAN);
    daemon_ = NewDaemon();
    StepsUntilPlanned(&step);
    for (int i = 0; i < 4; ++i, ++step) EXPECT_EQ(Step(step, i % 2), ULTRAEP_PLAN);
  }
  NothingFailed();
}

TEST_F(DeviceStep, ARestoreAfterARestartUsesTheNewMemory) {
  Begin(DeviceConfig(2));
  uint64_t step = 0;
  StepsUntilPlanned(&step);
  // The plan of this step is kept while the daemon goes and comes: its memory is still there.
  std::vector<std::unique_ptr<DeviceRank>>& ranks = ranks_;
  daemon_ = nullptr;
  std::vector<std::string> wrong(2);
  std::vector<std::thread> threads;
  for (size_t r = 0; r < 2; ++r)
    threads.emplace_back([&, r] { wrong[r] = ranks[r]->Backward(0); });
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong[0] + wrong[1], "");
  daemon_ = NewDaemon();
  StepsUntilPlanned(&step);
  NothingFailed();
}

// Operations that were enqueued before a step's await still begin on the memory before it, however
// long the stream takes: it must not go when the carrier has given that step's verdict.
TEST_F(DeviceStep, MemoryStaysUntilTheSwitchHasReachedTheStream) {
  Begin(DeviceConfig(2));
  uint64_t step = 0;
  StepsUntilPlanned(&step);
  daemon_ = nullptr;
  daemon_ = NewDaemon();
  for (auto& rank : ranks_) ASSERT_TRUE(rank->AwaitGenerations(2)) << rank->state_text();
  std::atomic<bool> go{false};
  std::vector<std::unique_ptr<test::CudaGraph>> drivers;
  std::vector<ultraep_cuda_plan*> next(2);
  for (size_t r = 0; r < 2; ++r) {
    DeviceRank& rank = *ranks_[r];
    drivers.push_back(std::make_unique<test::CudaGraph>(rank.device()));
    const auto enqueue = drivers[r]->Call<decltype(&fake_cuda_enqueue)>("fake_cuda_enqueue");
    if (!enqueue) GTEST_SKIP() << "a real driver: nothing here can hold up its streams";
    ASSERT_EQ(ultraep_cuda_plan_create(rank.client(), &next[r]), ULTRAEP_OK);
    ASSERT_EQ(ultraep_cuda_submit_ids(next[r], 0, 0, rank.ids(),
                                      test::kStepTokens * test::kStepTopK, rank.stream()),
              ULTRAEP_OK);
    rank.Synchronize();  // the row is there, its verdict comes whatever the stream does
    drivers[r]->MakeCurrent();
    enqueue(
        static_cast<CUstream>(rank.stream()),
        [](void* wait) {
          while (!*static_cast<std::atomic<bool>*>(wait)) std::this_thread::yield();
        },
        &go);
    ultraep_cuda_stream_weights(rank.plan(), 0, ULTRAEP_BY_PLAIN_COPIES, rank.stream());
    ultraep_cuda_await_weights(rank.plan(), rank.stream());
    ultraep_cuda_release(rank.plan(), rank.stream());
    ultraep_cuda_await_verdict(next[r], rank.stream());
  }
  // Long enough for the link's thread, which frees what is left behind with its heartbeats.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  go = true;
  for (auto& rank : ranks_) rank->Synchronize();
  NothingFailed();
  for (auto* plan : next) ultraep_cuda_plan_free(plan);
  ++step;
  StepsUntilPlanned(&step);
}

TEST_F(DeviceStep, ARankThatLeavesIsMissedAndComesBack) {
  Begin(DeviceConfig(3));
  uint64_t step = 0;
  StepsUntilPlanned(&step);
  ranks_[2]->Leave();
  ranks_[2] = nullptr;
  for (int i = 0; i < 3; ++i) {  // the others go on, without plans
    std::vector<StepOutcome> outcomes(2);
    std::vector<std::thread> threads;
    for (size_t r = 0; r < 2; ++r)
      threads.emplace_back([&, r] { outcomes[r] = ranks_[r]->Step(step); });
    for (auto& t : threads) t.join();
    EXPECT_NE(outcomes[0].info.verdict, ULTRAEP_PLAN);
    EXPECT_EQ(outcomes[0].wrong + outcomes[1].wrong, "");
    ++step;
  }
  ranks_[2] = std::make_unique<DeviceRank>(socket_, config_, test::DeviceRankOptions{2, 0, step});
  EXPECT_EQ(ranks_[2]->Join(), ULTRAEP_OK) << ultraep_last_error();
  StepsUntilPlanned(&step);
  NothingFailed();
}

TEST_F(DeviceStep, AWrongIdFailsTheStepAndIsNamedAndTheGroupGoesOn) {
  Begin(DeviceConfig(2));
  uint64_t step = 0;
  StepsUntilPlanned(&step);
  std::vector<StepOutcome> outcomes(2);
  Each([&](DeviceRank& rank) {
    std::vector<int32_t> ids = rank.Ids(step);
    if (&rank == ranks_[1].get()) ids[5] = int32_t(config_.experts);
    rank.SetIds(ids);
    rank.Enqueue(0);
    rank.Synchronize();
    ultraep_cuda_release(rank.plan(), rank.stream());
    rank.Synchronize();
    rank.Look(false);
  });
  ++step;
  std::string text;
  // Only the rank that did it knows why; the other one is told once that the generation failed.
  bool named = false;
  for (int i = 0; i < 2000 && !named; ++i) {
    if (ranks_[1]->Check(&text) == ULTRAEP_FAILED)
      named = text.find("ids[5] is 4, must be -1 or 0..3") != std::string::npos;
    else
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(named) << text;
  while (ranks_[0]->Check(&text) == ULTRAEP_FAILED) {
  }
  while (ranks_[1]->Check(&text) == ULTRAEP_FAILED) {
  }
  StepsUntilPlanned(&step);
}

}  // namespace
}  // namespace ultraep

// What a framework may do in a wrong order or half: refused at the call, or said by
// ultraep_cuda_check; never a wrong result that nobody hears of.
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "tests/support/cuda_graph.h"
#include "tests/support/device_group.h"
#include "tests/support/fake_cuda/fake_cuda.h"

namespace ultraep {
namespace {

using test::DeviceConfig;
using test::DeviceGroupTest;
using test::DeviceRank;
using test::StepOutcome;

class DeviceMisuse : public DeviceGroupTest {
 protected:
  static ultraep_group_config Hasty(uint32_t ranks) {
    ultraep_group_config config = DeviceConfig(ranks);
    config.step_timeout_ns = 1'500'000'000;
    return config;
  }
};

TEST_F(DeviceMisuse, AFailureOfAPeerShowsInCheck) {
  Begin(Hasty(4));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  const uint64_t n = test::kStepTokens * test::kStepTopK;
  for (auto& r : ranks_) {
    std::vector<int32_t> ids(n);
    for (uint64_t i = 0; i < n; ++i) ids[i] = i % 4 == 3 ? 6 : 0;
    r->SetIds(ids);
    ultraep_cuda_submit_ids(r->plan(), 0, 0, r->ids(), n, r->stream());
    ultraep_cuda_await_verdict(r->plan(), r->stream());
  }
  for (auto& r : ranks_) r->Synchronize();
  test::CudaGraph driver(ranks_[0]->device());
  driver.Call<decltype(&fake_cuda_fail)>("fake_cuda_fail")("cuLaunchKernel", 2,
                                                           CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
  EXPECT_EQ(ultraep_cuda_stream_weights(ranks_[0]->plan(), 0, ULTRAEP_BY_PLAIN_COPIES,
                                        ranks_[0]->stream()),
            ULTRAEP_INTERNAL);
  for (int r = 1; r < 4; ++r)
    EXPECT_EQ(ultraep_cuda_stream_weights(ranks_[r]->plan(), 0, ULTRAEP_BY_PLAIN_COPIES,
                                          ranks_[r]->stream()),
              ULTRAEP_OK);
  for (auto& r : ranks_) {
    ultraep_cuda_route(r->plan(), r->ids(), test::kStepTokens, test::kStepTopK, r->physical(),
                       r->stream());
    ultraep_cuda_await_weights(r->plan(), r->stream());
    r->Release();
  }
  for (auto& r : ranks_) r->Synchronize();
  std::this_thread::sleep_for(std::chrono::seconds(1));  // all carriers have looked
  std::vector<ultraep_status> said(4);
  uint64_t to_missing = 0;
  for (int r = 0; r < 4; ++r) {
    StepOutcome o = ranks_[r]->Look(false);
    std::string text;
    said[r] = ranks_[r]->Check(&text);
    uint64_t mine = 0;
    for (int32_t p : o.physical)
      for (auto& rep : o.replicas)
        mine += rep.expert / 2 == 0 && p == int32_t(rep.rank * 4 + 2 + rep.slot);
    bool has = false;
    for (auto& rep : o.replicas) has |= rep.rank == uint32_t(r);
    if (said[r] == ULTRAEP_OK && r != 0) to_missing += mine;
  }
  EXPECT_EQ(to_missing, 0u) << "tokens computed with wrong weights on ranks that hear OK";
}

TEST_F(DeviceMisuse, AwaitIntoAPlanAtWork) {
  Begin(Hasty(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  std::vector<ultraep_cuda_plan*> second(2);
  for (size_t r = 0; r < 2; ++r)
    ASSERT_EQ(ultraep_cuda_plan_create(ranks_[r]->client(), &second[r]), ULTRAEP_OK);
  std::vector<ultraep_status> said(2);
  Each([&](DeviceRank& rank) {
    const size_t r = &rank == ranks_[1].get();
    rank.SetIds(rank.Ids(1));
    rank.Enqueue(0);
    ultraep_cuda_submit_ids(second[r], 0, 0, rank.ids(), test::kStepTokens * test::kStepTopK,
                            rank.stream());
    said[r] = ultraep_cuda_await_verdict(rank.plan(), rank.stream());
    rank.Synchronize();
    rank.Release();
    rank.Synchronize();
  });
  EXPECT_EQ(said[0], ULTRAEP_INVALID);
  for (auto* p : second) ultraep_cuda_plan_free(p);
}

TEST_F(DeviceMisuse, ARefusedSetGradientsChangesNothing) {
  ultraep_group_config config = DeviceConfig(2);
  Begin(config);
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  auto backward = [&] {
    std::vector<std::string> wrong(2);
    Each([&](DeviceRank& r) { wrong[&r == ranks_[1].get()] = r.Backward(0); });
    EXPECT_EQ(wrong[0] + wrong[1], "");
  };
  for (auto& r : ranks_) {
    void* none[8] = {};
    EXPECT_EQ(ultraep_cuda_set_main_gradients(r->client(), 0, none, ULTRAEP_BFLOAT16),
              ULTRAEP_INVALID);
  }
  backward();
  NothingFailed();
  std::set<std::pair<uint32_t, uint32_t>> reps;
  ultraep_plan_info pi{};
  ultraep_replica list[16];
  ultraep_cuda_plan_read(ranks_[0]->plan(), &pi, list, 16);
  std::map<uint32_t, float> sums;
  for (uint32_t i = 0; i < pi.replica_count; ++i)
    sums[list[i].expert] += DeviceRank::GradientOf(list[i].expert, list[i].rank, 0);
  for (auto& [e, v] : sums)
    EXPECT_EQ(ranks_[e / 2]->MainGradient(e % 2, 0)[0], v) << "expert " << e;
}

TEST_F(DeviceMisuse, LayerOfTheStepNotOfTheLastSubmit) {
  Begin(DeviceConfig(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  std::vector<StepOutcome> out(2);
  Each([&](DeviceRank& r) {
    r.SetIds(r.Ids(1));
    const uint64_t n = test::kStepTokens * test::kStepTopK;
    ultraep_cuda_submit_ids(r.plan(), 0, 0, r.ids(), n, r.stream());
    EXPECT_EQ(ultraep_cuda_submit_ids(r.plan(), 1, 0, r.ids(), n, r.stream()), ULTRAEP_INVALID);
    ultraep_cuda_await_verdict(r.plan(), r.stream());
    ultraep_cuda_stream_weights(r.plan(), 0, ULTRAEP_BY_PLAIN_COPIES, r.stream());
    ultraep_cuda_route(r.plan(), r.ids(), test::kStepTokens, test::kStepTopK, r.physical(),
                       r.stream());
    ultraep_cuda_await_weights(r.plan(), r.stream());
    r.Synchronize();
    out[&r == ranks_[1].get()] = r.Look(true);  // expects layer 0's bytes, the step's layer
    r.Release();
    r.Synchronize();
  });
  bool told = false;
  for (auto& r : ranks_) {
    std::string text;
    told |= r->Check(&text) == ULTRAEP_FAILED;
  }
  EXPECT_TRUE(told || out[0].wrong + out[1].wrong == "") << out[0].wrong << out[1].wrong;
}

TEST_F(DeviceMisuse, AReleaseOfPreparedGradientsIsRefused) {
  Begin(DeviceConfig(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  std::vector<ultraep_status> said(2);
  Each([&](DeviceRank& r) {
    ultraep_cuda_stream_weights(r.plan(), 0, ULTRAEP_BY_PLAIN_COPIES, r.stream());
    ultraep_cuda_prepare_gradients(r.plan(), 1, r.stream());
    ultraep_cuda_await_weights(r.plan(), r.stream());
    // the backward fills the slots' gradients here
    said[&r == ranks_[1].get()] = ultraep_cuda_release(r.plan(), r.stream());
    r.Synchronize();
  });
  bool told = said[0] != ULTRAEP_OK;
  std::string text;
  for (auto& r : ranks_) told |= r->Check(&text) == ULTRAEP_FAILED;
  EXPECT_TRUE(told) << "the replicas' gradients are gone, nobody says so";
}

TEST_F(DeviceMisuse, AReleaseWaitsForTheArrival) {
  Begin(Hasty(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  test::CudaGraph driver(ranks_[0]->device());
  const auto enqueue = driver.Call<decltype(&fake_cuda_enqueue)>("fake_cuda_enqueue");
  const uint64_t n = test::kStepTokens * test::kStepTopK;
  for (auto& r : ranks_) {
    r->SetIds(r->Ids(0));
    ultraep_cuda_submit_ids(r->plan(), 0, 0, r->ids(), n, r->stream());
    ultraep_cuda_await_verdict(r->plan(), r->stream());
  }
  for (auto& r : ranks_) r->Synchronize();
  std::atomic<bool> go{false};
  driver.MakeCurrent();
  enqueue(
      static_cast<CUstream>(ranks_[0]->stream()),
      [](void* wait) {
        while (!*static_cast<std::atomic<bool>*>(wait)) std::this_thread::yield();
      },
      &go);
  std::atomic<bool> released{false};
  std::thread one([&] {
    DeviceRank& r = *ranks_[1];
    ultraep_cuda_stream_weights(r.plan(), 0, ULTRAEP_BY_PLAIN_COPIES, r.stream());
    ultraep_cuda_release(r.plan(), r.stream());
    r.Synchronize();
    released = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const bool early = released;
  go = true;
  ultraep_cuda_stream_weights(ranks_[0]->plan(), 0, ULTRAEP_BY_PLAIN_COPIES, ranks_[0]->stream());
  ranks_[0]->Release();
  ranks_[0]->Synchronize();
  one.join();
  std::string text;
  EXPECT_FALSE(early) << "released before its weights came; check says " << ranks_[1]->Check(&text)
                      << text;
}

}  // namespace
}  // namespace ultraep

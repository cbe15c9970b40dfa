// Plans, clients and threads that end, fail or stand still at a bad moment: the process and its
// group go on.
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
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

class DeviceLives : public DeviceGroupTest {
 protected:
  static ultraep_group_config Hasty(uint32_t ranks) {
    ultraep_group_config config = DeviceConfig(ranks);
    config.step_timeout_ns = 1'500'000'000;
    return config;
  }
  std::vector<ultraep_cuda_slot> Slots(DeviceRank& r) {
    const ultraep_cuda_slot* at = nullptr;
    ultraep_cuda_plan_slots(r.plan(), &at);
    std::vector<ultraep_cuda_slot> s(config_.slots);
    BackendText w;
    test::Backend().FromDevice(r.device(), s.data(), at, s.size() * sizeof s[0], &w);
    return s;
  }
};

TEST_F(DeviceLives, PlansInAForkedChild) {
  Begin(DeviceConfig(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  const pid_t child = fork();
  if (!child) {
    alarm(5);
    const ultraep_status s =
        ultraep_cuda_submit_ids(ranks_[0]->plan(), 0, 0, ranks_[0]->ids(), 8, ranks_[0]->stream());
    _exit(s == ULTRAEP_INVALID ? 0 : 10 + s);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
      << "submit: " << (WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
  const pid_t second = fork();
  if (!second) {
    alarm(5);
    ultraep_cuda_plan_free(ranks_[0]->plan());
    _exit(0);
  }
  waitpid(second, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
      << "plan_free: " << (WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
  EXPECT_EQ(Step(1), ULTRAEP_PLAN);
}

TEST_F(DeviceLives, PlansAfterLeave) {
  Begin(DeviceConfig(2));
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  for (auto& r : ranks_) r->Leave();
  EXPECT_EQ(
      ultraep_cuda_submit_ids(ranks_[0]->plan(), 0, 0, ranks_[0]->ids(), 8, ranks_[0]->stream()),
      ULTRAEP_INVALID);
  std::string text;
  EXPECT_NE(ranks_[0]->Check(&text), ULTRAEP_INVALID) << text;
}

TEST_F(DeviceLives, ARestoreThatDoesNotBeginLeavesNoAddresses) {
  Begin(Hasty(2));
  uint64_t step = 0;
  StepsUntilPlanned(&step);
  std::vector<std::vector<ultraep_cuda_slot>> before;
  for (auto& r : ranks_) before.push_back(Slots(*r));
  daemon_ = nullptr;
  daemon_ = std::make_unique<test::TestDaemon>(socket_);
  for (auto& rank : ranks_) ASSERT_TRUE(rank->AwaitGenerations(2)) << rank->state_text();
  // The next steps, with a plan of their own: the first one switches, the second one fails.
  std::vector<ultraep_cuda_plan*> next(2);
  for (size_t r = 0; r < 2; ++r)
    ASSERT_EQ(ultraep_cuda_plan_create(ranks_[r]->client(), &next[r]), ULTRAEP_OK);
  for (int i = 0; i < 2; ++i)
    Each([&](DeviceRank& rank) {
      ultraep_cuda_plan* p = next[&rank == ranks_[1].get()];
      rank.SetIds(rank.Ids(step + i));
      ultraep_cuda_submit_ids(p, 0, 0, rank.ids(), test::kStepTokens * test::kStepTopK,
                              rank.stream());
      ultraep_cuda_await_verdict(p, rank.stream());
      rank.Synchronize();
      if (i == 1) rank.SetIds(rank.Ids(step + 7));  // counts differ
      ultraep_cuda_route(p, rank.ids(), test::kStepTokens, test::kStepTopK, rank.physical(),
                         rank.stream());
      rank.Synchronize();
    });
  std::this_thread::sleep_for(std::chrono::seconds(1));  // old memory is unmapped by now
  for (auto& r : ranks_) {
    std::string text;
    EXPECT_EQ(r->Check(&text), ULTRAEP_FAILED);
  }
  Each([&](DeviceRank& rank) {
    ultraep_cuda_stream_weights(rank.plan(), 0, ULTRAEP_BY_PLAIN_COPIES, rank.stream());
    ultraep_cuda_await_weights(rank.plan(), rank.stream());
    rank.Synchronize();
  });
  for (size_t r = 0; r < 2; ++r) {
    auto now = Slots(*ranks_[r]);
    for (size_t i = 0; i < now.size(); ++i) {
      EXPECT_EQ(now[i].expert, UINT32_MAX)
          << "rank " << r << " slot " << i << " at " << now[i].shards[0] << " (was "
          << before[r][i].shards[0];
    }
  }
  for (auto* p : next) ultraep_cuda_plan_free(p);
}

TEST_F(DeviceLives, ADriverErrorInStreamWeightsIsOver) {
  Begin(Hasty(2));
  uint64_t step = 0;
  ASSERT_EQ(Step(step++), ULTRAEP_PLAN);
  test::CudaGraph driver(ranks_[0]->device());
  const auto fail = driver.Call<decltype(&fake_cuda_fail)>("fake_cuda_fail");
  for (auto& r : ranks_) r->SetIds(r->Ids(step));
  const uint64_t n = test::kStepTokens * test::kStepTopK;
  for (auto& r : ranks_) {
    ultraep_cuda_submit_ids(r->plan(), 0, 0, r->ids(), n, r->stream());
    ultraep_cuda_await_verdict(r->plan(), r->stream());
  }
  for (auto& r : ranks_) r->Synchronize();
  fail("cuLaunchKernel", 2, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
  EXPECT_EQ(ultraep_cuda_stream_weights(ranks_[0]->plan(), 0, ULTRAEP_BY_PLAIN_COPIES,
                                        ranks_[0]->stream()),
            ULTRAEP_INTERNAL);
  ultraep_cuda_stream_weights(ranks_[1]->plan(), 0, ULTRAEP_BY_PLAIN_COPIES, ranks_[1]->stream());
  ultraep_cuda_await_weights(ranks_[0]->plan(), ranks_[0]->stream());
  ultraep_cuda_await_weights(ranks_[1]->plan(), ranks_[1]->stream());
  for (auto& r : ranks_) r->Release(), r->Synchronize();
  ++step;
  std::string text;
  int planned = 0;
  for (int i = 0; i < 40; ++i) {
    std::vector<StepOutcome> outcomes(2);
    Each([&](DeviceRank& r) { outcomes[&r == ranks_[1].get()] = r.Step(step); });
    ++step;
    planned += outcomes[0].info.verdict == ULTRAEP_PLAN && outcomes[0].wrong.empty();
    for (auto& r : ranks_) {
      r->ClearErrors();
      r->Check(&text);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_GT(planned, 0);
}

TEST_F(DeviceLives, PlansFreedBeforeTheirReleaseDoNotEndTheMembership) {
  Begin(Hasty(2));
  uint64_t step = 0;
  const uint64_t n = test::kStepTokens * test::kStepTopK;
  for (int round = 0; round < 8; ++round) {
    bool planned = false;
    for (int i = 0; i < 100 && !planned; ++i) {
      std::vector<StepOutcome> outcomes(2);
      Each([&](DeviceRank& r) { outcomes[&r == ranks_[1].get()] = r.Step(step); });
      ++step;
      planned = outcomes[0].info.verdict == ULTRAEP_PLAN && outcomes[0].wrong.empty();
      std::string text;
      for (auto& r : ranks_) r->ClearErrors(), planned &= r->Check(&text) == ULTRAEP_OK;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    EXPECT_TRUE(planned) << "round " << round;
    if (!planned) break;
    Each([&](DeviceRank& r) {
      ultraep_cuda_plan* p = nullptr;
      ultraep_cuda_plan_create(r.client(), &p);
      r.SetIds(r.Ids(step));
      ultraep_cuda_submit_ids(p, 0, 0, r.ids(), n, r.stream());
      ultraep_cuda_await_verdict(p, r.stream());
      ultraep_cuda_stream_weights(p, 0, ULTRAEP_BY_PLAIN_COPIES, r.stream());
      ultraep_cuda_await_weights(p, r.stream());
      r.Synchronize();
      ultraep_cuda_plan_free(p);  // nothing of it is under way
    });
    ++step;
  }
}

TEST_F(DeviceLives, ACarrierThatStoodStillGoesOn) {
  ultraep_group_config config = DeviceConfig(2);
  config.step_timeout_ns = 300'000'000;
  config.window = 1;
  Begin(config);
  ASSERT_EQ(Step(0), ULTRAEP_PLAN);
  std::vector<pid_t> carriers;
  for (const auto& e : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream comm(e.path() / "comm");
    std::string name;
    std::getline(comm, name);
    if (name == "ultraep-carrier") carriers.push_back(std::stoi(e.path().filename()));
  }
  ASSERT_EQ(carriers.size(), 2u);
  const pid_t helper = fork();
  if (!helper) {
    int bad = 0;
    for (pid_t t : carriers) bad |= ptrace(PTRACE_ATTACH, t, 0, 0) != 0;
    for (pid_t t : carriers) waitpid(t, nullptr, __WALL);
    usleep(6'000'000);
    for (pid_t t : carriers) ptrace(PTRACE_DETACH, t, 0, 0);
    _exit(bad);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const uint64_t n = test::kStepTokens * test::kStepTopK;
  Each([&](DeviceRank& r) {
    r.SetIds(r.Ids(1));
    for (int i = 0; i < 2; ++i) {
      ultraep_cuda_submit_ids(r.plan(), 0, 0, r.ids(), n, r.stream());
      ultraep_cuda_await_verdict(r.plan(), r.stream());
    }
    r.Synchronize();
  });
  int status = 0;
  waitpid(helper, &status, 0);
  ASSERT_EQ(status, 0) << "no ptrace here";
  std::this_thread::sleep_for(std::chrono::seconds(3));  // the daemon, the group, everybody is well
  std::string text;
  for (auto& r : ranks_) r->Check(&text);
  for (uint64_t i = 3; i < 7; ++i) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<StepOutcome> o(2);
    Each([&](DeviceRank& r) { o[&r == ranks_[1].get()] = r.Step(i); });
    const double took =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const auto s = ranks_[0]->Check(&text);
    EXPECT_LT(took, 2.0);
    EXPECT_EQ(s, ULTRAEP_OK);
  }
}

}  // namespace
}  // namespace ultraep

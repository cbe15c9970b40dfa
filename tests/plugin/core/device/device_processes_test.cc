// Ranks on GPUs as processes of their own, with the real daemon: memory passes between them as
// descriptors, and ranks and daemon are killed under load. Nobody hangs, no result is wrong that
// was not said to be lost, and the group plans again.
#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <memory>

#include "tests/support/device_group.h"
#include "tests/support/fake_cuda/backend_process.h"
#include "tests/support/random.h"

namespace ultraep {
namespace {

using test::DeviceConfig;
using test::DeviceRank;
using test::StepOutcome;

constexpr uint32_t kRanks = 3;

// What the ranks' processes and the test tell each other.
struct Shared {
  std::atomic<uint64_t> target{0};  // ranks step until there
  std::atomic<uint64_t> done[kRanks] = {};
  std::atomic<uint64_t> planned[kRanks] = {};
  std::atomic<uint64_t> lost[kRanks] = {};
  std::atomic<bool> stop{false};
  std::atomic<bool> wrong{false};
  char text[2000] = {};  // of whoever was wrong first
};

void Nap() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

class DeviceProcesses : public testing::Test {
 protected:
  DeviceProcesses() {
    void* at =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared_ = new (at) Shared;
    setenv("ULTRAEP_CUDA_BACKEND", ULTRAEP_CUDA_BACKEND_PATH, 1);
    setenv("ULTRAEP_CUDA_DRIVER", ULTRAEP_FAKE_CUDA_PATH, 1);
    setenv("ULTRAEP_NVML", "/none", 1);
  }
  ~DeviceProcesses() override {
    shared_->stop = true;
    for (const pid_t rank : ranks_) End(rank, SIGKILL);
    End(daemon_, SIGKILL);
  }

  static void End(pid_t process, int signal) {
    if (process <= 0) return;
    kill(process, signal);
    waitpid(process, nullptr, 0);
  }
  void StartDaemon() {
    daemon_ = fork();
    if (daemon_ == 0)
      execl(ULTRAEPD_PATH, "ultraepd", "--socket", socket_.c_str(), "--metrics_listen", "off",
            "--cuda_backend", "off", "--log_level", "error", nullptr);
  }
  void StartRank(uint32_t r) {
    shared_->done[r] = shared_->target.load();
    ranks_[r] = fork();
    if (ranks_[r] == 0) {
      Run(r, shared_->done[r]);
      _exit(0);
    }
  }
  // A rank's process.
  void Run(uint32_t r, uint64_t step) {
    ultraep_group_config config = DeviceConfig(kRanks);
    config.step_timeout_ns = 3'000'000'000;
    config.device = int32_t(r);
    DeviceRank rank(socket_, config,
                    {r, r % 2 ? ULTRAEP_BY_PLAIN_COPIES : ULTRAEP_BY_BULK_COPIES, step});
    const ultraep_status joined = rank.Join();
    if (joined != ULTRAEP_OK && joined != ULTRAEP_TIMEOUT) Wrong("join: " + rank.state_text());
    while (!shared_->stop) {
      if (step >= shared_->target) {
        Nap();
        continue;
      }
      StepOutcome out = rank.Step(step, step % 2);
      std::string why;
      const bool lost = rank.Check(&why) == ULTRAEP_FAILED;
      if (!lost && !out.wrong.empty())
        Wrong("rank " + std::to_string(r) + " step " + std::to_string(step) + ": " + out.wrong);
      shared_->lost[r] += lost;
      shared_->planned[r] += out.info.verdict == ULTRAEP_PLAN && !lost;
      shared_->done[r] = ++step;
    }
  }
  void Wrong(const std::string& text) {
    if (shared_->wrong.exchange(true)) return;
    text.copy(shared_->text, sizeof shared_->text - 1);
  }
  // All ranks but one reach the target: nobody hangs.
  void Reached(uint32_t but = kRanks) {
    for (uint32_t r = 0; r < kRanks; ++r)
      for (int i = 0; r != but && shared_->done[r] < shared_->target; ++i) {
        ASSERT_LT(i, 60'000) << "rank " << r << " hangs in step " << shared_->done[r];
        Nap();
      }
  }
  // Further steps until all ranks have followed plans again.
  void Recovers() {
    uint64_t before[kRanks];
    for (uint32_t r = 0; r < kRanks; ++r) before[r] = shared_->planned[r];
    const auto all = [&] {
      for (uint32_t r = 0; r < kRanks; ++r)
        if (shared_->planned[r] < before[r] + 3) return false;
      return true;
    };
    for (int i = 0; !all(); ++i) {
      ASSERT_LT(i, 3000) << "no plans any more";
      shared_->target += 5;
      ASSERT_NO_FATAL_FAILURE(Reached());
    }
    ASSERT_FALSE(shared_->wrong) << shared_->text;
  }

  test::TemporaryDirectory directory_;
  const std::string socket_ = directory_.path() + "/daemon.sock";
  Shared* shared_ = nullptr;
  pid_t daemon_ = 0;
  pid_t ranks_[kRanks] = {};
};

TEST_F(DeviceProcesses, RanksAndDaemonAreKilledUnderLoad) {
  test::Random random(11);
  StartDaemon();
  for (uint32_t r = 0; r < kRanks; ++r) StartRank(r);
  ASSERT_NO_FATAL_FAILURE(Recovers());
  const int rounds = std::getenv("ULTRAEP_NIGHTLY") ? 2000 : 40;
  for (int round = 0; round < rounds; ++round) {
    shared_->target += 40;
    std::this_thread::sleep_for(std::chrono::microseconds(random.Below(30'000)));
    if (round % 4 == 3) {
      End(daemon_, SIGKILL);
      StartDaemon();
    } else {
      const auto victim = uint32_t(random.Below(kRanks));
      End(ranks_[victim], SIGKILL);
      ASSERT_NO_FATAL_FAILURE(Reached(victim)) << "round " << round;
      StartRank(victim);
    }
    ASSERT_NO_FATAL_FAILURE(Reached()) << "round " << round;
    ASSERT_NO_FATAL_FAILURE(Recovers()) << "round " << round;
  }
  uint64_t planned = 0, lost = 0;
  for (uint32_t r = 0; r < kRanks; ++r) {
    planned += shared_->planned[r];
    lost += shared_->lost[r];
  }
  std::printf("%d kills, %llu planned steps, %llu said to be lost\n", rounds,
              static_cast<unsigned long long>(planned), static_cast<unsigned long long>(lost));
}

}  // namespace
}  // namespace ultraep

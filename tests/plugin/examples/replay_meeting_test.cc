// How the replay's ranks wait for each other and go on after a death.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "plugin/examples/replay/barrier.h"
#include "plugin/examples/replay/meeting.h"
#include "protocol/transport/waiting.h"
#include "plugin/examples/replay/random.h"
#include "plugin/examples/replay/shared_state.h"

namespace ultraep::replay {
namespace {

TEST(Barrier, LetsNobodyPassBeforeEverybodyHasCome) {
  auto barrier = std::make_unique<Barrier>();
  std::atomic<uint32_t> epoch{0}, entered{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (uint32_t round = 1; round <= 200; ++round) {
        entered.fetch_add(1);
        ASSERT_EQ(barrier->Wait(3, epoch, 0, 60'000'000'000), Arrival::kAll);
        ASSERT_GE(entered.load(), 3 * round);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Barrier, IsLeftWhenTheEpochMovesOnAndAtTheTimeout) {
  auto barrier = std::make_unique<Barrier>();
  std::atomic<uint32_t> epoch{0};
  EXPECT_EQ(barrier->Wait(2, epoch, 0, 1'000'000), Arrival::kTimeout);
  EXPECT_EQ(barrier->Wait(2, epoch, 0, 1'000'000), Arrival::kTimeout) << "nobody completes it";
  barrier->Reset();
  std::thread sleeper(
      [&] { EXPECT_EQ(barrier->Wait(2, epoch, 0, UINT64_MAX), Arrival::kInterrupted); });
  epoch.store(1);
  barrier->WakeAll();
  sleeper.join();
}

TEST(Barrier, IsPassedByAllOrByNoneWhateverInterruptsIt) {
  auto barrier = std::make_unique<Barrier>();
  std::atomic<uint32_t> epoch{0};
  uint32_t passed_rounds = 0;
  for (uint32_t round = 0; round < 500; ++round) {
    barrier->Reset();
    std::atomic<uint32_t> passed{0};
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < 3; ++i)
      threads.emplace_back([&, mine = epoch.load()] {
        passed += barrier->Wait(3, epoch, mine, 60'000'000'000) == Arrival::kAll;
      });
    for (uint32_t spin = 0; spin < round * 20; ++spin) asm volatile("");
    epoch.fetch_add(1);
    barrier->WakeAll();
    for (std::thread& thread : threads) thread.join();
    ASSERT_TRUE(passed == 0 || passed == 3) << passed;
    passed_rounds += passed == 3;
  }
  RecordProperty("passed", static_cast<int>(passed_rounds));
}

// Ranks that only pass barriers, in processes that are killed at any moment. The parent does what
// the replay's does.
class MeetingTest : public testing::Test {
 protected:
  static constexpr uint32_t kRanks = 3;
  struct Shared {
    Meeting meeting;
    std::atomic<uint64_t> begun[kRanks];
    std::atomic<uint32_t> wrong;
  };

  MeetingTest()
      : shared_(static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                                          MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~MeetingTest() override { munmap(shared_, sizeof(Shared)); }

  // A sequence must follow the one that this process has begun before.
  void Rank(uint32_t rank) {
    Meeting& meeting = shared_->meeting;
    uint64_t sequence = 0, last = 0;
    uint32_t epoch = meeting.epoch.count.load();
    const auto attend = [&](uint32_t odd) {
      if (!meeting.Attend(rank, odd)) _exit(0);
      epoch = odd + 1;
      sequence = meeting.next_sequence.value.load();
    };
    if (epoch != 0) attend(epoch);
    for (;;) {
      shared_->wrong += last && sequence != last;
      shared_->begun[rank].store(last = sequence + 1);
      if (meeting.barrier.Wait(kRanks, meeting.epoch.count, epoch, UINT64_MAX) == Arrival::kAll)
        ++sequence;
      else
        attend(epoch + 1);
    }
  }

  void Start(uint32_t rank) {
    pids_[rank] = fork();
    if (pids_[rank] == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      Rank(rank);
    }
  }

  void Kill(uint32_t rank) {
    kill(pids_[rank], SIGKILL);
    waitpid(pids_[rank], nullptr, 0);
    Meeting& meeting = shared_->meeting;
    meeting.ForgetDead(rank);
    meeting.Interrupt(meeting.epoch.count.load());
    Start(rank);
  }

  uint64_t Begun() const { return *std::max_element(shared_->begun, shared_->begun + kRanks); }

  bool EverybodyCame() const {
    for (uint32_t r = 0; r < kRanks; ++r) {
      if (shared_->meeting.IsMissing(r)) return false;
    }
    return true;
  }

  Shared* const shared_;
  pid_t pids_[kRanks] = {};
};

TEST_F(MeetingTest, KilledRanksAreReplacedAndSequencesRiseByOneForTheOthers) {
  for (uint32_t r = 0; r < kRanks; ++r) Start(r);
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    usleep(random.Below(3000));
    const uint32_t kills = 1 + random.Below(4);
    for (uint32_t k = 0; k < kills; ++k) {
      Kill(random.Below(kRanks));
      if (random.Below(2)) usleep(random.Below(1000));  // also while they come to the meeting
    }
    const uint64_t start = NowNs();
    while (!EverybodyCame()) {
      ASSERT_LT(NowNs() - start, 20'000'000'000u);
      usleep(100);
    }
    const uint64_t next = Begun();
    shared_->meeting.Open(next);
    while (Begun() <= next) {
      ASSERT_LT(NowNs() - start, 20'000'000'000u) << "nobody goes on";
      usleep(100);
    }
  }
  EXPECT_EQ(shared_->wrong, 0u);
  shared_->meeting.End();
  for (const pid_t pid : pids_) {
    int status = -1;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
}

TEST_F(MeetingTest, IsOpenOnlyWhenAllHaveComeOrAreExcused) {
  Meeting& meeting = shared_->meeting;
  meeting.Interrupt(2);  // not the present epoch
  EXPECT_EQ(meeting.epoch.count, 0u);
  meeting.Interrupt(0);
  meeting.Interrupt(0);
  EXPECT_EQ(meeting.epoch.count, 1u);
  EXPECT_TRUE(meeting.IsMissing(0));
  meeting.Excuse(0);
  EXPECT_FALSE(meeting.IsMissing(0));
  std::thread rank([&] { EXPECT_TRUE(meeting.Attend(1, 1)); });
  while (meeting.IsMissing(1)) usleep(100);
  meeting.ForgetDead(1);
  EXPECT_TRUE(meeting.IsMissing(1));
  meeting.Open(7);
  rank.join();
  EXPECT_EQ(meeting.next_sequence.value, 7u);
  meeting.Interrupt(2);
  EXPECT_TRUE(meeting.IsMissing(1)) << "the meeting before does not count";
  meeting.End();
  meeting.Interrupt(2);
  meeting.Open(8);
  EXPECT_EQ(meeting.epoch.count, Meeting::kEnd);
  EXPECT_FALSE(meeting.Attend(1, 3));
}

// What rank 0 records of a step, and what a kill in the middle leaves.
TEST(RecordStep, CountsAStepOnceAndOnlyWhenAllRanksHaveFinishedIt) {
  SharedState shared({{2, 4, 1, 0}, 1, {8, 8}, 8});
  ASSERT_EQ(shared.Map(), "");
  const RunRecord* run = shared.run();
  for (uint32_t r = 0; r < 2; ++r) shared.rank(r)->note.verdict = ULTRAEP_PLAN;
  MeasureStep(&shared, 0, 5000);
  shared.rank(0)->tokens.Set(3);
  shared.rank(0)->finished.Set(1);
  RecordStep(&shared);
  EXPECT_EQ(run->totals().steps, 0u) << "rank 1 has not finished it";
  shared.rank(1)->tokens.Set(4);
  shared.rank(1)->finished.Set(1);
  // Killed while it wrote the other totals, before the version.
  shared.run()->both[1].steps = 77;
  RecordStep(&shared);
  RecordStep(&shared);
  EXPECT_EQ(run->totals().steps, 1u);
  EXPECT_EQ(run->totals().planned, 1u);
  EXPECT_EQ(run->totals().tokens_checked, 7u);
  MeasureStep(&shared, 1, 5000);  // lost: rank 1 dies in it
  shared.rank(0)->finished.Set(2);
  RecordStep(&shared);
  for (uint32_t r = 0; r < 2; ++r) shared.rank(r)->note.verdict = ULTRAEP_DECLINED;
  MeasureStep(&shared, 2, 0);
  for (uint32_t r = 0; r < 2; ++r) shared.rank(r)->finished.Set(3);
  RecordStep(&shared);
  EXPECT_EQ(run->totals().steps, 2u);
  EXPECT_EQ(run->totals().declined, 1u);
  EXPECT_EQ(run->totals().tokens_checked, 14u);
}

}  // namespace
}  // namespace ultraep::replay

// A group's memory changes under its clients: daemon restarts, lost and replaced members, plans that
// are kept across.
#include <sys/mman.h>

#include <fstream>
#include <functional>

#include "protocol/transport/waiting.h"
#include "tests/support/attach_fixture.h"

namespace ultraep {
namespace {

using namespace test;

// How many slot segments this process maps.
int MappedSlots() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);)
    count += line.find("ultraep-slots") != std::string::npos;
  return count;
}

class GenerationTest : public AttachTest {
 protected:
  static constexpr uint32_t kRanks = 2;

  void SetUp() override {
    for (uint32_t r = 0; r < kRanks; ++r) {
      mains_[r][0].assign(4096, static_cast<unsigned char>(10 + 2 * r));
      mains_[r][1].assign(4096, static_cast<unsigned char>(11 + 2 * r));
      members_[r] = Attach();
      auto config = Config(r);
      ASSERT_EQ(ultraep_join(members_[r], &config, 0), ULTRAEP_OK) << ultraep_last_error();
    }
  }
  void AwaitOpen() {
    for (auto* m : members_) ASSERT_EQ(AwaitPhase(m, ULTRAEP_OPEN), ULTRAEP_OPEN) << text_;
  }
  ultraep_client_info Info(uint32_t r) {
    ultraep_client_info info{};
    EXPECT_EQ(ultraep_client_state(members_[r], &info), ULTRAEP_OK);
    return info;
  }
  void OnAllRanks(const std::function<void(uint32_t rank)>& body) {
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < kRanks; ++r) threads.emplace_back([&, r] { body(r); });
    for (auto& t : threads) t.join();
  }
  // Both ranks: submit and await. Expert 0 is hot, so that a plan has replicas.
  void Resolve(uint64_t sequence) {
    OnAllRanks([&](uint32_t r) {
      const uint32_t row[4] = {50, 1, 1, 1};
      ASSERT_EQ(ultraep_submit_load(members_[r], sequence, 0, 0, row, 4), ULTRAEP_OK)
          << ultraep_last_error();
      ASSERT_EQ(ultraep_await_verdict(members_[r], sequence, -1, &plans_[r]), ULTRAEP_OK)
          << ultraep_last_error();
    });
  }
  ultraep_verdict VerdictOf(uint32_t r) {
    ultraep_plan_info info{};
    EXPECT_EQ(ultraep_plan_get_info(plans_[r], &info), ULTRAEP_OK);
    return info.verdict;
  }
  // Forward or restore: every replica is looked at byte for byte.
  void Stream() {
    int replicas = 0;
    OnAllRanks([&](uint32_t r) {
      const void* mains[2] = {mains_[r][0].data(), mains_[r][1].data()};
      ASSERT_EQ(ultraep_stream_weights(plans_[r], 0, mains), ULTRAEP_OK) << ultraep_last_error();
      ASSERT_EQ(ultraep_await_weights(plans_[r], 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
      uint32_t expert = 0;
      const void* shards[ULTRAEP_MAX_SHARDS] = {};
      ASSERT_EQ(ultraep_plan_get_slot(plans_[r], 0, &expert, shards), ULTRAEP_OK);
      if (expert != UINT32_MAX) {
        EXPECT_EQ(std::memcmp(shards[0], mains_[expert / 2][expert % 2].data(), 4096), 0);
        ++replicas;
      }
      ASSERT_EQ(ultraep_release(plans_[r], 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
    });
    EXPECT_EQ(replicas, 1);
  }
  void Free() {
    for (auto*& p : plans_) ultraep_plan_free(std::exchange(p, nullptr));
  }
  void TearDown() override {
    Free();
    AttachTest::TearDown();
  }

  ultraep_client* members_[kRanks] = {};
  ultraep_plan* plans_[kRanks] = {};
  std::vector<unsigned char> mains_[kRanks][2];
};

TEST_F(GenerationTest, ADaemonThatRestartsIsJoinedAgainByTheSameClients) {
  uint64_t sequence = 0;
  for (uint64_t life = 1; life <= 3; ++life) {
    TestDaemon daemon(socket_);
    AwaitOpen();
    Resolve(sequence++);
    EXPECT_EQ(VerdictOf(0), ULTRAEP_PLAN);
    Stream();
    Free();
    for (uint32_t r = 0; r < kRanks; ++r) EXPECT_EQ(Info(r).generations, life);
    EXPECT_EQ(Info(0).last_gap_ns > 0, life > 1);
  }
  Resolve(sequence);
  EXPECT_EQ(VerdictOf(0), ULTRAEP_DECLINED) << "without a daemon, at once";
}

TEST_F(GenerationTest, AnotherProcessTakesTheLostMembersPlaceAndTheGroupPlansAgain) {
  TestDaemon daemon(socket_);
  AwaitOpen();
  Resolve(0);
  Stream();
  Free();
  ASSERT_EQ(ultraep_leave(members_[1]), ULTRAEP_OK);
  members_[1] = Attach();
  auto config = Config(1);
  config.next_sequence = 7;
  ASSERT_EQ(ultraep_join(members_[1], &config, 0), ULTRAEP_OK);
  const uint32_t row[4] = {50, 1, 1, 1};
  for (uint64_t s = 1; s < 7; ++s) {  // rank 0 goes on alone meanwhile
    ASSERT_EQ(ultraep_submit_load(members_[0], s, 0, 0, row, 4), ULTRAEP_OK);
    ASSERT_EQ(ultraep_await_verdict(members_[0], s, -1, &plans_[0]), ULTRAEP_OK);
    EXPECT_NE(VerdictOf(0), ULTRAEP_PLAN);
    Free();
  }
  AwaitOpen();
  Resolve(7);
  EXPECT_EQ(VerdictOf(0), ULTRAEP_PLAN);
  EXPECT_EQ(VerdictOf(1), ULTRAEP_PLAN);
  Stream();
}

TEST_F(GenerationTest, APlanIsRestoredInItsOwnMemoryAfterTheDaemonDiedAndInTheNextOneAfterTheSwitch) {
  {
    TestDaemon daemon(socket_);
    AwaitOpen();
    Resolve(0);
    ASSERT_EQ(VerdictOf(0), ULTRAEP_PLAN);
    Stream();
  }
  AwaitPhase(members_[0], ULTRAEP_OVER);
  Stream();  // no daemon: the old slots still serve
  TestDaemon daemon(socket_);
  AwaitOpen();
  Stream();  // the new generation is open, its first step is not loaded yet
  ultraep_plan* kept[kRanks] = {plans_[0], plans_[1]};
  Resolve(1);
  ASSERT_EQ(VerdictOf(0), ULTRAEP_PLAN);
  Stream();
  for (uint32_t r = 0; r < kRanks; ++r) std::swap(kept[r], plans_[r]);
  Stream();  // step 0 again, in the memory of the new generation
  for (auto* p : kept) ultraep_plan_free(p);
}

// Nobody is there to see the connection close: the others see the heartbeat stand still.
TEST_F(GenerationTest, AMemberLostWhileNoDaemonRunsIsNoticedAtTheLeaseAndNotAtTheStepTimeout) {
  DaemonOptions options = TestDaemon::Defaults();
  options.lease_ns = 500'000'000;
  {
    TestDaemon daemon(socket_, options);
    AwaitOpen();
    Resolve(0);
    ASSERT_EQ(VerdictOf(0), ULTRAEP_PLAN);
    Stream();
  }
  ASSERT_EQ(ultraep_leave(members_[1]), ULTRAEP_OK);
  const uint64_t start = NowNs();
  const void* mains[2] = {mains_[0][0].data(), mains_[0][1].data()};
  ASSERT_EQ(ultraep_stream_weights(plans_[0], 0, mains), ULTRAEP_OK) << ultraep_last_error();
  EXPECT_EQ(ultraep_release(plans_[0], -1), ULTRAEP_FAILED);
  EXPECT_NE(std::string(ultraep_last_error()).find("rank 1 is gone"), std::string::npos)
      << ultraep_last_error();
  EXPECT_LT(NowNs() - start, uint64_t(10 * kSecond)) << "the step timeout is 20 s";
}

TEST_F(GenerationTest, AKeptPlanPinsNoSharedMemory) {
  std::vector<ultraep_plan*> kept;
  const int before = MappedSlots();
  for (uint64_t life = 0; life < 3; ++life) {
    TestDaemon daemon(socket_);
    AwaitOpen();
    Resolve(2 * life);
    Stream();
    for (auto*& p : plans_) kept.push_back(std::exchange(p, nullptr));
    Resolve(2 * life + 1);
    Stream();
    Free();
  }
  // The links unmap what was left behind at their next heartbeat.
  for (int i = 0; i < 200 && MappedSlots() - before > int(kRanks * kRanks); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_LE(MappedSlots() - before, int(kRanks * kRanks)) << "each client maps one generation";
  for (auto* p : kept) ultraep_plan_free(p);
}

TEST_F(GenerationTest, APlanThatIsFreedUnstreamedFailsItsGenerationAndTheNextOnePlansAgain) {
  TestDaemon daemon(socket_);
  AwaitOpen();
  Resolve(0);
  ASSERT_EQ(VerdictOf(0), ULTRAEP_PLAN);
  ultraep_plan_free(std::exchange(plans_[0], nullptr));
  const void* mains[2] = {mains_[1][0].data(), mains_[1][1].data()};
  EXPECT_EQ(ultraep_stream_weights(plans_[1], 0, mains), ULTRAEP_FAILED);
  Free();
  const uint32_t row[4] = {50, 1, 1, 1};
  EXPECT_EQ(ultraep_submit_load(members_[0], 1, 0, 0, row, 4), ULTRAEP_FAILED)
      << "nobody told rank 0 yet";
  for (uint64_t s = 1; s < 500; ++s) {
    Resolve(s);
    const bool planned = VerdictOf(0) == ULTRAEP_PLAN;
    if (planned) {
      Stream();
      return;
    }
    Free();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  FAIL() << "no plan on a new generation";
}

// Kept since before the daemon's restart: the next generation knows nothing of it.
TEST_F(GenerationTest, APlanFreedUnstreamedAfterItsGenerationCostsTheNextOneNothing) {
  ultraep_plan* kept[kRanks] = {};
  {
    TestDaemon daemon(socket_);
    AwaitOpen();
    Resolve(0);
    ASSERT_EQ(VerdictOf(0), ULTRAEP_PLAN);
    std::swap(kept, plans_);
  }
  TestDaemon daemon(socket_);
  AwaitOpen();
  Resolve(1);
  ASSERT_EQ(VerdictOf(0), ULTRAEP_PLAN);
  for (auto* p : kept) ultraep_plan_free(p);
  Stream();
  Free();
  Resolve(2);
  EXPECT_EQ(VerdictOf(0), ULTRAEP_PLAN);
  Stream();
}

// A shortage that passes, seen by ranks that only want back what they had.
TEST_F(GenerationTest, AFormerMemberIsNeverRefusedForGood) {
  {
    TestDaemon daemon(socket_);
    AwaitOpen();
  }
  {
    DaemonOptions full = TestDaemon::Defaults();
    full.memory_limit_bytes = 1;
    TestDaemon daemon(socket_, full);
    for (int i = 0; i < 1000 && !std::string(Info(0).text).starts_with("refused for now"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_NE(std::string(Info(0).text).find("--memory_limit_mib"), std::string::npos)
        << Info(0).text;
    EXPECT_NE(Info(0).phase, ULTRAEP_REFUSED_JOIN);
  }
  TestDaemon daemon(socket_);
  AwaitOpen();
}

TEST_F(GenerationTest, KeptPlansOfAClientThatHasLeftPinNothingAndStreamNothing) {
  const int before = MappedSlots();
  TestDaemon daemon(socket_);
  AwaitOpen();
  Resolve(0);
  Stream();
  for (uint32_t r = 0; r < kRanks; ++r) {
    ultraep_detach(members_[r]);
    std::erase(clients_, members_[r]);
  }
  EXPECT_EQ(MappedSlots(), before);
  const void* mains[2] = {mains_[0][0].data(), mains_[0][1].data()};
  EXPECT_EQ(ultraep_stream_weights(plans_[0], 0, mains), ULTRAEP_INVALID);
  std::vector<int32_t> ids(53, 0), physical(53);
  ids[50] = 1, ids[51] = 2, ids[52] = 3;
  EXPECT_EQ(ultraep_route(plans_[0], ids.data(), 53, 1, physical.data()), ULTRAEP_OK)
      << "the plan itself stays valid";
}

TEST_F(GenerationTest, HandlesByTheHundredsCostWhatTheySay) {
  TestDaemon daemon(socket_);
  AwaitOpen();
  std::vector<ultraep_plan*> kept;
  uint64_t said = 0;
  for (uint64_t s = 0; s < 600; ++s) {
    Resolve(s);
    Stream();
    for (auto*& p : plans_) {
      ultraep_plan_info info{};
      ASSERT_EQ(ultraep_plan_get_info(p, &info), ULTRAEP_OK);
      EXPECT_EQ(info.verdict, ULTRAEP_PLAN);
      said += info.handle_bytes;
      kept.push_back(std::exchange(p, nullptr));
    }
  }
  EXPECT_GT(said / kept.size(), 4 * 4u);
  EXPECT_LT(said / kept.size(), 2048u) << "4 experts, 1 slot";
  // Backward: the last forward step first.
  for (size_t i = kept.size(); i >= 2 && i > kept.size() - 40; i -= 2) {
    for (uint32_t r = 0; r < kRanks; ++r) plans_[r] = kept[i - 2 + r];
    Stream();
  }
  plans_[0] = plans_[1] = nullptr;
  for (auto* p : kept) ultraep_plan_free(p);
}

// Checkpointing routes the same tokens again; other counts are another batch.
TEST_F(GenerationTest, ARecomputeWithOtherCountsIsRefused) {
  TestDaemon daemon(socket_);
  AwaitOpen();
  Resolve(0);
  Stream();
  std::vector<int32_t> ids(53, 0), physical(53);
  ids[50] = 1, ids[51] = 2, ids[52] = 3;
  EXPECT_EQ(ultraep_route(plans_[0], ids.data(), 53, 1, physical.data()), ULTRAEP_OK);
  const std::vector<int32_t> first = physical;
  EXPECT_EQ(ultraep_route(plans_[0], ids.data(), 53, 1, physical.data()), ULTRAEP_OK);
  EXPECT_EQ(physical, first);
  ids[0] = 1;
  EXPECT_EQ(ultraep_route(plans_[0], ids.data(), 53, 1, physical.data()), ULTRAEP_INVALID);
}

}  // namespace
}  // namespace ultraep

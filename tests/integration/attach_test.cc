// The life of a group over a real socket with a real daemon.
#include <signal.h>
#include <sys/wait.h>

#include "protocol/transport/waiting.h"
#include "tests/support/attach_fixture.h"

namespace ultraep {
namespace {

using namespace test;

TEST_F(AttachTest, AGroupOpensWhenItsLastMemberIsReady) {
  TestDaemon daemon(socket_);
  auto *a = Attach(), *b = Attach();
  auto config = Config(0);
  EXPECT_EQ(ultraep_join(a, &config, kSecond / 20), ULTRAEP_TIMEOUT);
  config = Config(1);
  EXPECT_EQ(ultraep_join(b, &config, 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
  EXPECT_EQ(AwaitPhase(a, ULTRAEP_OPEN), ULTRAEP_OPEN);
  std::thread other([&] { EXPECT_EQ(Step(b, 0), ULTRAEP_PLAN); });
  EXPECT_EQ(Step(a, 0), ULTRAEP_PLAN);
  other.join();
}

// Two slots in two sets; an odd shard and its scales; a float32 gradient for every 1-byte weight.
TEST_F(AttachTest, MemoryIsKnownBeforeAGroupIsJoined) {
  auto config = Config(0);
  config.slots = config.slot_sets = config.shard_count = 2;
  config.shard_bytes[0] = 1'000'001;  // four chunks
  config.shard_bytes[1] = 44;
  config.training = 1;
  config.gradient_count = 1;
  config.gradient_bytes[0] = 4'000'004;
  ultraep_memory memory{};
  ASSERT_EQ(ultraep_memory_of(&config, &memory), ULTRAEP_OK) << ultraep_last_error();
  EXPECT_EQ(memory.weights_per_slot, 1'000'064u + 128);  // whole lines of 128
  EXPECT_EQ(memory.gradients_per_slot, 4'000'128u);
  EXPECT_EQ(memory.flags_per_slot, 128u + 256);  // chunks; gradient ready and taken
  EXPECT_EQ(memory.slots_per_rank, 4u);
  const uint64_t slots =
      4 * (memory.weights_per_slot + memory.gradients_per_slot + memory.flags_per_slot);
  EXPECT_GE(memory.slots_of_rank, slots);
  EXPECT_LT(memory.slots_of_rank, slots + 2 * 65536);
  EXPECT_GT(memory.group, 2 * memory.slots_of_rank);
  // It is what the daemon counts: one byte less is too little, so much is enough.
  for (const uint64_t less : {1, 0}) {
    DaemonOptions options = TestDaemon::Defaults();
    options.memory_limit_bytes = memory.group - less;
    TestDaemon daemon(socket_, options);
    EXPECT_EQ(ultraep_join(Attach(), &config, kSecond / 20),
              less ? ULTRAEP_REFUSED : ULTRAEP_TIMEOUT)
        << ultraep_last_error();
  }
  config.shard_count = 99;
  EXPECT_EQ(ultraep_memory_of(&config, &memory), ULTRAEP_INVALID);
}

TEST_F(AttachTest, WithoutADaemonStepsAreDeclinedAndTheDaemonIsPickedUpWhenItAppears) {
  auto *a = Attach(), *b = Attach();
  auto config_a = Config(0), config_b = Config(1);
  ASSERT_EQ(ultraep_join(a, &config_a, 0), ULTRAEP_OK);
  ASSERT_EQ(ultraep_join(b, &config_b, 0), ULTRAEP_OK);
  for (uint64_t s = 0; s < 3; ++s) {
    EXPECT_EQ(Step(a, s), ULTRAEP_DECLINED);
    EXPECT_EQ(Step(b, s), ULTRAEP_DECLINED);
  }
  TestDaemon daemon(socket_);
  ASSERT_EQ(AwaitPhase(a, ULTRAEP_OPEN), ULTRAEP_OPEN) << text_;
  ASSERT_EQ(AwaitPhase(b, ULTRAEP_OPEN), ULTRAEP_OPEN) << text_;
  std::thread other([&] { EXPECT_EQ(Step(b, 3), ULTRAEP_PLAN); });
  EXPECT_EQ(Step(a, 3), ULTRAEP_PLAN);
  other.join();
}

// Mutated messages of every type: the daemon refuses or serves, and lives.
TEST_F(AttachTest, AMemberThatLeavesEndsTheGenerationForTheOthersAtOnce) {
  TestDaemon daemon(socket_);
  auto *a = Attach(), *b = Attach();
  auto config_a = Config(0), config_b = Config(1);
  ASSERT_EQ(ultraep_join(a, &config_a, 0), ULTRAEP_OK);
  ASSERT_EQ(ultraep_join(b, &config_b, 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
  ASSERT_EQ(AwaitPhase(a, ULTRAEP_OPEN), ULTRAEP_OPEN);
  const uint32_t row[4] = {1, 2, 3, 4};
  ASSERT_EQ(ultraep_submit_load(a, 0, 0, 0, row, 4), ULTRAEP_OK);
  ASSERT_EQ(ultraep_leave(b), ULTRAEP_OK);
  ultraep_plan* plan = nullptr;
  const uint64_t start = NowNs();
  ASSERT_EQ(ultraep_await_verdict(a, 0, -1, &plan), ULTRAEP_OK) << ultraep_last_error();
  ultraep_plan_info info{};
  ultraep_plan_get_info(plan, &info);
  EXPECT_EQ(info.verdict, ULTRAEP_FALLBACK);
  EXPECT_LT(NowNs() - start, uint64_t(5 * kSecond)) << "not the step timeout";
  ultraep_plan_free(plan);
  EXPECT_EQ(Step(a, 1), ULTRAEP_DECLINED);
  EXPECT_EQ(AwaitPhase(a, ULTRAEP_OVER), ULTRAEP_OVER);
  EXPECT_EQ(ultraep_submit_load(b, 1, 0, 0, row, 4), ULTRAEP_INVALID);
}

TEST_F(AttachTest, ADaemonThatStopsEndsTheGenerationAndStepsGoOnDeclined) {
  auto daemon = std::make_unique<TestDaemon>(socket_);
  auto *a = Attach(), *b = Attach();
  auto config_a = Config(0), config_b = Config(1);
  ASSERT_EQ(ultraep_join(a, &config_a, 0), ULTRAEP_OK);
  ASSERT_EQ(ultraep_join(b, &config_b, 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
  ASSERT_EQ(AwaitPhase(a, ULTRAEP_OPEN), ULTRAEP_OPEN);
  daemon.reset();
  EXPECT_EQ(AwaitPhase(a, ULTRAEP_OVER), ULTRAEP_OVER);
  EXPECT_EQ(Step(a, 0), ULTRAEP_DECLINED);
  EXPECT_EQ(Step(b, 0), ULTRAEP_DECLINED);
}

TEST_F(AttachTest, ASignalForTheFrameworkDoesNotStopTheLink) {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, nullptr);
  auto* a = Attach();
  auto config = Config(0, 1);
  ASSERT_EQ(ultraep_join(a, &config, 0), ULTRAEP_OK);
  for (int i = 0; i < 50; ++i) {
    kill(getpid(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  TestDaemon daemon(socket_);
  EXPECT_EQ(AwaitPhase(a, ULTRAEP_OPEN), ULTRAEP_OPEN) << text_;
}

TEST_F(AttachTest, AForkedChildCannotUseItsParentsClient) {
  TestDaemon daemon(socket_);
  auto* a = Attach();
  auto config = Config(0);
  ASSERT_EQ(ultraep_join(a, &config, kSecond / 20), ULTRAEP_TIMEOUT);
  const uint32_t first_row[4] = {};
  ASSERT_EQ(ultraep_submit_load(a, 0, 0, 0, first_row, 4), ULTRAEP_OK);
  ultraep_plan* plan = nullptr;
  ASSERT_EQ(ultraep_await_verdict(a, 0, -1, &plan), ULTRAEP_OK);
  const pid_t child = fork();
  if (child == 0) {
    const uint32_t row[4] = {};
    ultraep_client_info info;
    const bool refused = ultraep_submit_load(a, 0, 0, 0, row, 4) == ULTRAEP_INVALID &&
                         ultraep_client_state(a, &info) == ULTRAEP_INVALID &&
                         ultraep_route(plan, nullptr, 0, 1, nullptr) == ULTRAEP_INVALID;
    ultraep_plan_free(plan);
    ultraep_detach(a);
    _exit(refused ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ultraep_plan_free(plan);
  config = Config(1);
  EXPECT_EQ(ultraep_join(Attach(), &config, 10 * kSecond), ULTRAEP_OK)
      << "the parent's membership is untouched: " << ultraep_last_error();
}

// The child of a fork has the socket too: the daemon sees no end of it when the parent closes it.
TEST_F(AttachTest, ARankThatLeavesBeforeItsGroupIsCompleteFreesItsPlaceWhateverItsChildrenHold) {
  TestDaemon daemon(socket_);
  auto config = Config(0);
  auto* first = Attach();
  ASSERT_EQ(ultraep_join(first, &config, kSecond / 20), ULTRAEP_TIMEOUT);
  ASSERT_EQ(AwaitPhase(first, ULTRAEP_JOINING), ULTRAEP_JOINING);
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  ASSERT_EQ(ultraep_leave(first), ULTRAEP_OK);
  ASSERT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT);
  config = Config(1);
  EXPECT_EQ(ultraep_join(Attach(), &config, 5 * kSecond), ULTRAEP_OK) << ultraep_last_error();
  kill(child, SIGKILL);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

TEST_F(AttachTest, RoutingRefusesIdsOutOfRangeAndCountsThatDifferFromTheRow) {
  auto* a = Attach();
  auto config = Config(0, 1);
  ASSERT_EQ(ultraep_join(a, &config, 0), ULTRAEP_OK);
  const uint32_t row[2] = {2, 1};
  ASSERT_EQ(ultraep_submit_load(a, 0, 0, 0, row, 2), ULTRAEP_OK) << ultraep_last_error();
  ultraep_plan* plan = nullptr;
  ASSERT_EQ(ultraep_await_verdict(a, 0, -1, &plan), ULTRAEP_OK);
  int32_t out[3] = {7, 7, 7};
  const int32_t right[3] = {0, 1, 0}, range[3] = {0, 2, 0}, counts[3] = {0, 1, 1};
  EXPECT_EQ(ultraep_route(plan, range, 3, 1, out), ULTRAEP_INVALID);
  EXPECT_EQ(ultraep_route(plan, counts, 3, 1, out), ULTRAEP_INVALID);
  EXPECT_EQ(out[0], 7) << "nothing written";
  EXPECT_EQ(ultraep_route(plan, right, 3, 1, out), ULTRAEP_OK) << ultraep_last_error();
  EXPECT_EQ(out[1], 1);
  EXPECT_EQ(ultraep_route(plan, nullptr, 3, 1, out), ULTRAEP_INVALID);
  ultraep_plan_free(plan);
}

}  // namespace
}  // namespace ultraep

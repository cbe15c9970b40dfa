// Attach, join, status and every refusal, over a real socket with a real daemon.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <chrono>
#include <thread>

#include "plugin/api/ultraep.h"
#include "protocol/transport/mapping.h"
#include "protocol/transport/seqpacket.h"
#include "protocol/transport/waiting.h"
#include "tests/support/random.h"
#include "tests/support/test_daemon.h"

namespace ultraep {
namespace {

using test::Random;
using test::TemporaryDirectory;
using test::TestDaemon;

constexpr int64_t kSecond = 1'000'000'000;

class AttachTest : public testing::Test {
 protected:
  static ultraep_group_config Config(uint32_t rank, uint32_t ranks = 2) {
    ultraep_group_config c{};
    c.struct_size = sizeof c;
    c.rank = rank;
    c.group_name = "group";
    c.ranks = ranks;
    c.experts = ranks * 2;
    c.slots = 1;
    c.layers = 1;
    c.window = 2;
    c.slot_sets = 1;
    c.shard_count = 1;
    c.shard_bytes[0] = 4096;
    c.step_timeout_ns = 20 * kSecond;
    return c;
  }
  ultraep_client* Attach() {
    ultraep_attach_options options{sizeof options, socket_.c_str()};
    ultraep_client* client = nullptr;
    EXPECT_EQ(ultraep_attach(&options, &client), ULTRAEP_OK) << ultraep_last_error();
    clients_.push_back(client);
    return client;
  }
  ultraep_phase AwaitPhase(ultraep_client* client, ultraep_phase phase) {
    ultraep_client_info info{};
    for (int i = 0; i < 1000 && info.phase != phase; ++i) {
      EXPECT_EQ(ultraep_client_state(client, &info), ULTRAEP_OK);
      if (info.phase != phase) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    text_ = info.text;
    return info.phase;
  }
  ultraep_verdict Step(ultraep_client* client, uint64_t sequence) {
    const uint32_t row[4] = {50, 1, 1, 1};
    EXPECT_EQ(ultraep_submit_load(client, sequence, 0, 0, row, 4), ULTRAEP_OK)
        << ultraep_last_error();
    ultraep_plan* plan = nullptr;
    EXPECT_EQ(ultraep_await_verdict(client, sequence, -1, &plan), ULTRAEP_OK)
        << ultraep_last_error();
    ultraep_plan_info info{};
    EXPECT_EQ(ultraep_plan_get_info(plan, &info), ULTRAEP_OK);
    static const unsigned char weights[4096] = {};
    const void* mains[2] = {weights, weights};
    EXPECT_EQ(ultraep_stream_weights(plan, 0, mains), ULTRAEP_OK) << ultraep_last_error();
    EXPECT_EQ(ultraep_release(plan, 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
    ultraep_plan_free(plan);
    return info.verdict;
  }
  // A bare connection, to say what libultraep never would.
  Descriptor Connect() {
    Descriptor fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, socket_.c_str());
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  std::string RefusalOf(const Descriptor& fd) {
    Packet packet;
    while (ReceivePacket(fd.get(), 0, &packet) == Receive::kPacket) {
      Refused refused;
      if (As(packet.bytes, packet.size, &refused)) return GetText(refused.text);
    }
    return "closed without a word";
  }
  void TearDown() override {
    for (auto* c : clients_) ultraep_detach(c);
  }

  TemporaryDirectory directory_;
  const std::string socket_ = directory_.path() + "/daemon.sock";
  std::vector<ultraep_client*> clients_;
  std::string text_;
};

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

TEST_F(AttachTest, MembersThatDisagreeAreRefusedWithBothValues) {
  TestDaemon daemon(socket_);
  auto config = Config(0);
  ASSERT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT);
  config = Config(1);
  config.window = 3;
  EXPECT_EQ(ultraep_join(Attach(), &config, 10 * kSecond), ULTRAEP_REFUSED);
  EXPECT_NE(std::string(ultraep_last_error()).find("window is 3 here and 2 in the group"),
            std::string::npos)
      << ultraep_last_error();
  config = Config(1);
  config.shard_bytes[0] = 8192;
  EXPECT_EQ(ultraep_join(Attach(), &config, 10 * kSecond), ULTRAEP_REFUSED);
  config = Config(1);
  EXPECT_EQ(ultraep_join(Attach(), &config, 10 * kSecond), ULTRAEP_OK)
      << "a refusal changes nothing: " << ultraep_last_error();
}

TEST_F(AttachTest, ARankThatJoinsTwiceIsRefused) {
  TestDaemon daemon(socket_);
  auto config = Config(0);
  ASSERT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT);
  EXPECT_EQ(ultraep_join(Attach(), &config, 10 * kSecond), ULTRAEP_REFUSED);
  EXPECT_NE(std::string(ultraep_last_error()).find("rank 0 has joined already"), std::string::npos)
      << ultraep_last_error();
}

TEST_F(AttachTest, AnotherNonceIsAnotherGroup) {
  TestDaemon daemon(socket_);
  auto config = Config(0);
  ASSERT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT);
  config.nonce[3] = 1;
  EXPECT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT) << "not refused";
}

TEST_F(AttachTest, SizesThatCannotBeAreRefusedBeforeTheDaemonIsAsked) {
  const struct {
    void (*change)(ultraep_group_config*);
    const char* text;
  } cases[] = {
      {[](auto* c) { c->experts = 5; }, "experts is 5, must be a multiple of ranks (2)"},
      {[](auto* c) { c->ranks = 0; }, "ranks is 0, must be 1..512"},
      {[](auto* c) { c->slots = 33; }, "slots is 33, must be 0..32"},
      {[](auto* c) { c->window = 0; }, "window is 0, must be 1..64"},
      {[](auto* c) { c->slot_sets = 9; }, "slot_sets is 9, must be 1..8"},
      {[](auto* c) { c->rank = 2; }, "rank is 2, must be below ranks (2)"},
      {[](auto* c) { c->shard_count = 9; }, "shard_count is 9, must be 0..8"},
      {[](auto* c) { c->shard_bytes[0] = 0; }, "shard_bytes is 0, must be 1.."},
      {[](auto* c) { c->group_name = ""; }, "group_name must have 1..63 characters"},
      {[](auto* c) { c->layers = 0; }, "layers is 0, must be at least 1"},
      {[](auto* c) { c->gradient_bytes = 4; }, "gradient_bytes is 4, must be 0 when serving"},
      {[](auto* c) { c->domain_size = 3; }, "domain_size is 3, must be 0 or a divisor"},
      {[](auto* c) { c->struct_size = 7; }, "struct_size is 7"},
  };
  auto* client = Attach();
  for (const auto& wrong : cases) {
    auto config = Config(0);
    wrong.change(&config);
    EXPECT_EQ(ultraep_join(client, &config, 0), ULTRAEP_INVALID);
    EXPECT_NE(std::string(ultraep_last_error()).find(wrong.text), std::string::npos)
        << ultraep_last_error();
  }
  auto config = Config(0);
  EXPECT_EQ(ultraep_join(client, &config, 0), ULTRAEP_OK) << "refusals changed nothing";
}

TEST_F(AttachTest, AGroupThatDoesNotFitTheMemoryLimitIsRefusedWithBothSizes) {
  TestDaemon daemon(socket_, 1 << 20);
  auto config = Config(0);
  config.shard_bytes[0] = 64 << 20;
  EXPECT_EQ(ultraep_join(Attach(), &config, 10 * kSecond), ULTRAEP_REFUSED);
  EXPECT_NE(std::string(ultraep_last_error()).find("--memory_limit_mib"), std::string::npos)
      << ultraep_last_error();
}

TEST_F(AttachTest, AnotherLayoutVersionIsRefusedNamingBoth) {
  TestDaemon daemon(socket_);
  Descriptor fd = Connect();
  Hello hello;
  hello.head.version = kLayoutVersion + 1;
  ASSERT_TRUE(SendMessage(fd.get(), hello));
  const std::string text = RefusalOf(fd);
  EXPECT_NE(text.find("layout version " + std::to_string(kLayoutVersion + 1) + " there, " +
                      std::to_string(kLayoutVersion) + " here"),
            std::string::npos)
      << text;
}

TEST_F(AttachTest, MessagesOfWrongSizeOrderOrTypeAreRefusedAndTheDaemonGoesOn) {
  TestDaemon daemon(socket_);
  {
    Descriptor fd = Connect();
    ASSERT_TRUE(SendMessage(fd.get(), Join()));
    EXPECT_EQ(RefusalOf(fd), "the first message must be Hello");
  }
  {
    Descriptor fd = Connect();
    ASSERT_EQ(send(fd.get(), "hello", 5, MSG_NOSIGNAL), 5);
    EXPECT_EQ(RefusalOf(fd), "message of 5 bytes, a head has 16");
  }
  {
    Descriptor fd = Connect();
    Hello hello;
    hello.head.size = 79;
    ASSERT_TRUE(SendMessage(fd.get(), hello));
    EXPECT_EQ(RefusalOf(fd), "message says 79 bytes, 80 came");
  }
  {
    Descriptor fd = Connect();
    unsigned char big[kMaxMessage + 1] = {};
    ASSERT_EQ(send(fd.get(), big, sizeof big, MSG_NOSIGNAL), ssize_t(sizeof big));
    EXPECT_EQ(RefusalOf(fd), "message longer than 1024 bytes");
  }
  {
    Descriptor fd = Connect();
    ASSERT_TRUE(SendMessage(fd.get(), Hello()));
    ASSERT_TRUE(SendMessage(fd.get(), Ready()));
    EXPECT_EQ(RefusalOf(fd), "Ready for a generation that was not joined");
  }
  auto config = Config(0);
  EXPECT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT) << "still serving";
}

// Mutated messages of every type: the daemon refuses or serves, and lives.
TEST_F(AttachTest, MutatedMessagesNeverEndTheDaemon) {
  TestDaemon daemon(socket_);
  const uint64_t seed = 1;
  Random random(seed);
  for (int round = 0; round < 1500; ++round) {
    Descriptor fd = Connect();
    SendMessage(fd.get(), Hello());
    unsigned char bytes[sizeof(Join)];
    Join join;
    SetText(join.config.name, "fuzz");
    join.config.ranks = 2;
    join.config.experts = 4;
    join.config.slots = 1;
    join.config.layers = join.config.window = join.config.slot_sets = 1;
    join.config.step_timeout_ns = 1'000'000'000;
    std::memcpy(bytes, &join, sizeof bytes);
    for (uint64_t flips = random.Below(4); flips > 0; --flips)
      bytes[random.Below(sizeof bytes)] ^= static_cast<unsigned char>(1 << random.Below(8));
    const size_t size = random.Below(8) ? sizeof bytes : random.Below(sizeof bytes);
    send(fd.get(), bytes, size, MSG_NOSIGNAL);
  }
  auto config = Config(0);
  EXPECT_EQ(ultraep_join(Attach(), &config, kSecond / 5), ULTRAEP_TIMEOUT)
      << "seed " << seed << ": " << ultraep_last_error();
}

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

TEST_F(AttachTest, ASecondDaemonOnTheSameSocketIsRefusedNamingTheFirst) {
  TestDaemon daemon(socket_);
  Listener second;
  const std::string wrong = second.Open(socket_, 0600);
  EXPECT_NE(wrong.find("another ultraepd (pid " + std::to_string(getpid()) + ")"),
            std::string::npos)
      << wrong;
}

TEST_F(AttachTest, ASocketLeftByAKilledDaemonIsTakenOverAndOtherFilesAreNot) {
  {
    Descriptor left(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, socket_.c_str());
    ASSERT_EQ(bind(left.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  { TestDaemon daemon(socket_); }
  const std::string file = directory_.path() + "/file";
  fclose(fopen(file.c_str(), "w"));
  Listener listener;
  EXPECT_NE(listener.Open(file, 0600).find("is not a socket"), std::string::npos);
  EXPECT_EQ(access(file.c_str(), F_OK), 0);
}

TEST_F(AttachTest, ConnectionsAboveTheLimitAreTurnedAwayAndMembersStay) {
  TestDaemon daemon(socket_, 1 << 30, 3);
  auto config = Config(0);
  ASSERT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT);
  std::vector<Descriptor> crowd;
  for (int i = 0; i < 20; ++i) crowd.push_back(Connect());
  EXPECT_NE(RefusalOf(crowd.back()).find("--max_connections is 3"), std::string::npos);
  crowd.clear();
  config = Config(1);
  for (int i = 0; i < 100; ++i) {  // the daemon notices the closed ones in its own time
    if (ultraep_join(Attach(), &config, 10 * kSecond) == ULTRAEP_OK) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  FAIL() << ultraep_last_error();
}

TEST_F(AttachTest, ARankThatBreaksOffBeforeItIsReadyMayTryAgain) {
  TestDaemon daemon(socket_);
  auto config = Config(0);
  ASSERT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT);
  {
    Descriptor half = Connect();
    Join join;
    SetText(join.config.name, "group");
    join.config.ranks = 2;
    join.config.experts = 4;
    join.config.slots = join.config.layers = join.config.slot_sets = join.config.shard_count = 1;
    join.config.window = 2;
    join.config.shard_bytes[0] = 4096;
    join.config.step_timeout_ns = uint64_t(20 * kSecond);
    join.rank = 1;
    ASSERT_TRUE(SendMessage(half.get(), Hello()));
    ASSERT_TRUE(SendMessage(half.get(), join));
    Packet packet;
    Joined joined;
    ASSERT_EQ(ReceivePacket(half.get(), 0, &packet), Receive::kPacket);  // Welcome
    ASSERT_EQ(ReceivePacket(half.get(), 0, &packet), Receive::kPacket);
    ASSERT_TRUE(As(packet.bytes, packet.size, &joined));
  }
  config = Config(1);
  for (int i = 0; i < 100; ++i) {  // the daemon notices in its own time
    if (ultraep_join(Attach(), &config, 10 * kSecond) == ULTRAEP_OK) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  FAIL() << ultraep_last_error();
}

TEST_F(AttachTest, TheDaemonTakesNoDescriptorsFromItsClients) {
  TestDaemon daemon(socket_);
  Descriptor fd = Connect();
  const int mine = fd.get();
  ASSERT_TRUE(SendMessage(fd.get(), Hello(), &mine, 1));
  EXPECT_EQ(RefusalOf(fd), "the daemon takes no file descriptors");
}

TEST_F(AttachTest, TheDaemonsSegmentsAreSealedAndOthersAreRefused) {
  TestDaemon daemon(socket_);
  Descriptor fd = Connect();
  ASSERT_TRUE(SendMessage(fd.get(), Hello()));
  Join join;
  SetText(join.config.name, "seals");
  join.config.ranks = join.config.experts = join.config.slots = join.config.layers = 1;
  join.config.window = join.config.slot_sets = 1;
  join.config.step_timeout_ns = 1'000'000'000;
  ASSERT_TRUE(SendMessage(fd.get(), join));
  Packet packet;
  Segments segments;
  do {
    ASSERT_EQ(ReceivePacket(fd.get(), 0, &packet), Receive::kPacket);
  } while (!As(packet.bytes, packet.size, &segments));
  const GroupLayout layout(join.config);
  ASSERT_EQ(packet.descriptors.size(), SegmentCount(1));
  const int plan_board = packet.descriptors[1].get();
  EXPECT_EQ(CheckDescriptor(plan_board, layout.plan_board_bytes), "");
  EXPECT_NE(CheckDescriptor(plan_board, layout.plan_board_bytes + 1), "");
  Mapping mapping;
  EXPECT_NE(mapping.Map(plan_board, layout.plan_board_bytes, true), "")
      << "only the daemon writes plans";
  EXPECT_EQ(mapping.Map(plan_board, layout.plan_board_bytes, false), "");
  EXPECT_NE(ftruncate(packet.descriptors[2].get(), 0), 0) << "shrinking would be a SIGBUS";
  Descriptor loose(memfd_create("loose", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(loose.get(), 4096), 0);
  EXPECT_EQ(CheckDescriptor(loose.get(), 4096),
            "segment is not sealed against shrinking and growing");
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

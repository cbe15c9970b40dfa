// Every refusal, and what hostile or broken clients can do to a daemon: nothing.
#include <sys/mman.h>

#include "protocol/transport/mapping.h"
#include "tests/support/attach_fixture.h"
#include "tests/support/random.h"

namespace ultraep {
namespace {

using namespace test;

using RefusalTest = AttachTest;

TEST_F(RefusalTest, MembersThatDisagreeAreRefusedWithBothValues) {
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

// The second one may be the successor of a process that is just dying: it waits.
TEST_F(RefusalTest, ARankThatJoinsTwiceWaitsForTheOtherProcessToEnd) {
  TestDaemon daemon(socket_);
  auto config = Config(0);
  auto* first = Attach();
  ASSERT_EQ(ultraep_join(first, &config, kSecond / 20), ULTRAEP_TIMEOUT);
  ASSERT_EQ(AwaitPhase(first, ULTRAEP_JOINING), ULTRAEP_JOINING) << "50 ms were too short for it";
  auto* second = Attach();
  EXPECT_EQ(ultraep_join(second, &config, kSecond / 2), ULTRAEP_TIMEOUT);
  // Asking again (in a back-off of at most 0.4 s) never hides why: not for a moment.
  for (const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1500);
       std::chrono::steady_clock::now() < end;) {
    ultraep_client_info info{};
    ASSERT_EQ(ultraep_client_state(second, &info), ULTRAEP_OK);
    ASSERT_NE(std::string(info.text).find("rank 0 has joined already"), std::string::npos)
        << info.text;
  }
  EXPECT_NE(std::string(ultraep_last_error()).find("rank 0 has joined already"), std::string::npos)
      << ultraep_last_error();
  ASSERT_EQ(ultraep_leave(first), ULTRAEP_OK);
  config = Config(1);
  EXPECT_EQ(ultraep_join(Attach(), &config, 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
  EXPECT_EQ(AwaitPhase(second, ULTRAEP_OPEN), ULTRAEP_OPEN) << text_;
}

TEST_F(RefusalTest, AnotherNonceIsAnotherGroup) {
  TestDaemon daemon(socket_);
  auto config = Config(0);
  ASSERT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT);
  config.nonce[3] = 1;
  EXPECT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT) << "not refused";
}

TEST_F(RefusalTest, SizesThatCannotBeAreRefusedBeforeTheDaemonIsAsked) {
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
      {[](auto* c) { c->gradient_count = 1, c->gradient_bytes[0] = 4; },
       "gradient_count is 1, must be 0 when serving"},
      {[](auto* c) { c->training = c->gradient_count = 1; },
       "gradient_bytes is 0, must be 1..1099511627776"},
      {[](auto* c) { c->training = c->gradient_count = 1, c->gradient_bytes[0] = 6; },
       "gradient_bytes is 6, must be a multiple of 4: gradients are float32"},
      {[](auto* c) {
         c->training = c->gradient_count = 1, c->gradient_bytes[0] = 4, c->shard_count = 0;
       },
       "gradient_count is 1, must be 0 when no weights travel (shard_count 0)"},
      {[](auto* c) { c->training = 1, c->gradient_count = 9; },
       "gradient_count is 9, must be 0..8"},
      {[](auto* c) { c->copy_threads = 65; }, "copy_threads is 65, the limit is 64"},
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

TEST_F(RefusalTest, AGroupThatDoesNotFitTheMemoryLimitIsRefusedWithBothSizes) {
  DaemonOptions options = TestDaemon::Defaults();
  options.memory_limit_bytes = 1 << 20;
  TestDaemon daemon(socket_, options);
  auto config = Config(0);
  config.shard_bytes[0] = 64 << 20;
  EXPECT_EQ(ultraep_join(Attach(), &config, 10 * kSecond), ULTRAEP_REFUSED);
  EXPECT_NE(std::string(ultraep_last_error()).find("--memory_limit_mib"), std::string::npos)
      << ultraep_last_error();
}

TEST_F(RefusalTest, AnotherLayoutVersionIsRefusedNamingBoth) {
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

TEST_F(RefusalTest, MessagesOfWrongSizeOrderOrTypeAreRefusedAndTheDaemonGoesOn) {
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
    EXPECT_EQ(RefusalOf(fd), "message longer than " + std::to_string(kMaxMessage) + " bytes");
  }
  {
    Descriptor fd = Connect();
    ASSERT_TRUE(SendMessage(fd.get(), Hello()));
    ASSERT_TRUE(SendMessage(fd.get(), Ready()));
    EXPECT_EQ(RefusalOf(fd), "Ready for a generation of which it is no member; join again");
  }
  auto config = Config(0);
  EXPECT_EQ(ultraep_join(Attach(), &config, kSecond / 20), ULTRAEP_TIMEOUT) << "still serving";
}

TEST_F(RefusalTest, MutatedMessagesNeverEndTheDaemon) {
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

TEST_F(RefusalTest, ASecondDaemonOnTheSameSocketIsRefusedNamingTheFirst) {
  TestDaemon daemon(socket_);
  Listener second;
  const std::string wrong = second.Open(socket_, 0600);
  EXPECT_NE(wrong.find("another ultraepd (pid " + std::to_string(getpid()) + ")"),
            std::string::npos)
      << wrong;
}

TEST_F(RefusalTest, ASocketLeftByAKilledDaemonIsTakenOverAndOtherFilesAreNot) {
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

TEST_F(RefusalTest, ConnectionsAboveTheLimitAreTurnedAwayAndMembersStay) {
  DaemonOptions options = TestDaemon::Defaults();
  options.max_connections = 3;
  TestDaemon daemon(socket_, options);
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

TEST_F(RefusalTest, TheDaemonTakesNoDescriptorsFromItsClients) {
  TestDaemon daemon(socket_);
  Descriptor fd = Connect();
  const int mine = fd.get();
  ASSERT_TRUE(SendMessage(fd.get(), Hello(), &mine, 1));
  EXPECT_EQ(RefusalOf(fd), "the daemon takes no file descriptors");
}

TEST_F(RefusalTest, TheDaemonsSegmentsAreSealedAndOthersAreRefused) {
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
  Joined joined;
  do {
    ASSERT_EQ(ReceivePacket(fd.get(), 0, &packet), Receive::kPacket);
  } while (!As(packet.bytes, packet.size, &joined));
  const GroupLayout layout(join.config);
  ASSERT_EQ(packet.descriptors.size(), JoinedDescriptors(MemoryKind::kHost, 2));
  const int plan_board = packet.descriptors[1].get();
  EXPECT_EQ(CheckDescriptor(plan_board, layout.file_bytes(SegmentFile::kPlan)), "");
  EXPECT_NE(CheckDescriptor(plan_board, layout.file_bytes(SegmentFile::kPlan) + 1), "");
  Mapping mapping;
  EXPECT_NE(mapping.Map(plan_board, 0, layout.plan_board_bytes, true), "")
      << "only the daemon writes plans";
  EXPECT_EQ(mapping.Map(plan_board, 0, layout.plan_board_bytes, false), "");
  EXPECT_NE(ftruncate(packet.descriptors[2].get(), 0), 0) << "shrinking would be a SIGBUS";
  Descriptor loose(memfd_create("loose", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(loose.get(), 4096), 0);
  EXPECT_EQ(CheckDescriptor(loose.get(), 4096),
            "the file is not sealed against shrinking and growing");
}

}  // namespace
}  // namespace ultraep

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
  auto* second = Attach();
  EXPECT_EQ(ultraep_join(second, &config, kSecond / 2), ULTRAEP_TIMEOUT);
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
    EXPECT_EQ(RefusalOf(fd), "message longer than 1024 bytes");
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

TEST_F(RefusalTest, ARankThatBreaksOffBeforeItIsReadyMayTryAgain) {
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

// Members that speak the protocol themselves, at their own pace.
class PacedMembersTest : public AttachTest {
 protected:
  static ultraep::Join Request(uint32_t rank, uint32_t ranks) {
    ultraep::Join join;
    SetText(join.config.name, "paced");
    join.config.ranks = join.config.experts = ranks;
    join.config.slots = join.config.layers = join.config.window = join.config.slot_sets = 1;
    join.config.step_timeout_ns = 1'000'000'000;
    join.rank = rank;
    return join;
  }
  Descriptor Enter(uint32_t rank, uint32_t ranks) {
    Descriptor fd = Connect();
    Packet packet;
    SendMessage(fd.get(), Hello());
    EXPECT_EQ(ReceivePacket(fd.get(), 0, &packet), Receive::kPacket);  // Welcome
    SendMessage(fd.get(), Request(rank, ranks));
    return fd;
  }
  template <class T>
  static bool Await(const Descriptor& fd, T* message) {
    Packet packet;
    while (ReceivePacket(fd.get(), 0, &packet) == Receive::kPacket)
      if (As(packet.bytes, packet.size, message)) return true;
    return false;
  }
  static bool SayReady(const Descriptor& fd, uint64_t generation) {
    Ready ready;
    ready.generation = generation;
    return SendMessage(fd.get(), ready);
  }
  // What the daemon says of itself, once it has handled everything sent before.
  StatusDaemon Status() {
    Descriptor fd = Connect();
    SendMessage(fd.get(), Hello());
    SendMessage(fd.get(), StatusRequest());
    StatusDaemon status;
    EXPECT_TRUE(Await(fd, &status));
    return status;
  }
};

// Rank 0 is slow to map a generation that is over meanwhile, and rank 1 waits for the next one.
TEST_F(PacedMembersTest, AReadyThatComesLateIsNoFault) {
  TestDaemon daemon(socket_);
  Descriptor slow = Enter(0, 2);
  Joined first, second;
  {
    Descriptor gone = Enter(1, 2);
    ASSERT_TRUE(Await(slow, &first));
  }
  Over over;
  ASSERT_TRUE(Await(slow, &over));
  EXPECT_EQ(over.generation, first.generation);
  Descriptor other = Enter(1, 2);
  Status();
  ASSERT_TRUE(SayReady(slow, first.generation));
  ASSERT_TRUE(SendMessage(slow.get(), Request(0, 2)));
  EXPECT_TRUE(Await(slow, &second));
  EXPECT_NE(second.generation, first.generation);
}

// A stopped process whose place another one has taken gets nothing of the next generation when it
// wakes, else two processes were one rank.
TEST_F(PacedMembersTest, AFencedConnectionGetsNothingOfTheGenerationAfter) {
  DaemonOptions options = TestDaemon::Defaults();
  options.lease_ns = 1'500'000'000;
  TestDaemon daemon(socket_, options);
  auto config = Config(0);
  config.group_name = "paced";
  config.experts = 2;
  config.window = 1;
  config.shard_count = 0;
  config.step_timeout_ns = Request(0, 2).config.step_timeout_ns;
  auto* well = Attach();
  ASSERT_EQ(ultraep_join(well, &config, 0), ULTRAEP_OK);
  Descriptor stopped = Enter(1, 2);  // nobody beats for it
  Joined first, second;
  Over over;
  ASSERT_TRUE(Await(stopped, &first));
  ASSERT_TRUE(Await(stopped, &over)) << "at the lease";
  Descriptor now = Enter(1, 2);
  ASSERT_TRUE(Await(now, &second));
  EXPECT_NE(second.generation, first.generation);
  ASSERT_TRUE(SayReady(now, second.generation));
  ASSERT_EQ(AwaitPhase(well, ULTRAEP_OPEN), ULTRAEP_OPEN) << text_;
  Packet packet;
  while (ReceivePacket(stopped.get(), MSG_DONTWAIT, &packet) == Receive::kPacket) {
    EXPECT_FALSE(As(packet.bytes, packet.size, &second)) << "the place is another's";
  }
  ASSERT_TRUE(SayReady(stopped, first.generation));
  ASSERT_TRUE(SendMessage(stopped.get(), Request(1, 2)));
  EXPECT_NE(RefusalOf(stopped).find("rank 1 has joined already"), std::string::npos);
}

// Else one who never reads could have any number of descriptors on their way.
TEST_F(PacedMembersTest, ANewJoinIsRefusedUntilTheLastJoinedIsAnswered) {
  TestDaemon daemon(socket_);
  Descriptor fd = Enter(0, 1);
  Joined joined;
  ASSERT_TRUE(Await(fd, &joined));
  ASSERT_TRUE(SendMessage(fd.get(), Leave()));
  ASSERT_TRUE(SendMessage(fd.get(), Request(0, 1)));
  EXPECT_NE(RefusalOf(fd).find("Join before Ready"), std::string::npos);
  fd = Enter(0, 1);
  ASSERT_TRUE(Await(fd, &joined));
  ASSERT_TRUE(SayReady(fd, joined.generation));
  ASSERT_TRUE(SendMessage(fd.get(), Leave()));
  ASSERT_TRUE(SendMessage(fd.get(), Request(0, 1)));
  EXPECT_TRUE(Await(fd, &joined));
}

TEST_F(PacedMembersTest, AConnectionCountsUntilItsPeerHasReadOrGoneEvenWhenTheDaemonHasClosedIt) {
  TestDaemon daemon(socket_);
  std::vector<Descriptor> silent;
  for (uint32_t r = 0; r < 3; ++r) silent.push_back(Enter(r, 3));
  Status();
  for (auto& fd : silent) ASSERT_EQ(send(fd.get(), "garbage", 7, MSG_NOSIGNAL), 7);
  EXPECT_EQ(Status().connections, 4u);
  EXPECT_EQ(Status().groups, 0u);
  EXPECT_EQ(send(silent[2].get(), "", 1, MSG_NOSIGNAL), -1) << "closed for the peer, too";
  Joined joined;
  EXPECT_TRUE(Await(silent[0], &joined)) << "what was sent before can still be read";
  EXPECT_NE(RefusalOf(silent[0]), "") << "and why it was closed";
  silent[1].reset();
  const auto settles = [&](uint32_t connections) {
    for (int i = 0; i < 500 && Status().connections != connections; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return Status().connections == connections;
  };
  EXPECT_TRUE(settles(2)) << "one has read, one is gone, one is silent still, one asks";
  silent.clear();
  EXPECT_TRUE(settles(1));
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
  ASSERT_EQ(packet.descriptors.size(), kJoinedDescriptors);
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

// The attach protocol at other paces than libultraep's: late, silent, fenced or half-way members.
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "tests/support/attach_fixture.h"

namespace ultraep {
namespace {

using namespace test;

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

TEST_F(PacedMembersTest, ARankThatBreaksOffBeforeItIsReadyMayTryAgain) {
  TestDaemon daemon(socket_);
  Descriptor other = Enter(0, 2);
  Joined joined, again;
  {
    Descriptor half = Enter(1, 2);
    ASSERT_TRUE(Await(half, &joined));
  }
  ASSERT_TRUE(Await(other, &joined));
  ASSERT_TRUE(SayReady(other, joined.generation));
  Over over;
  ASSERT_TRUE(Await(other, &over));
  ASSERT_TRUE(SendMessage(other.get(), Request(0, 2)));
  Descriptor whole = Enter(1, 2);
  ASSERT_TRUE(Await(whole, &again));
  EXPECT_NE(again.generation, joined.generation);
}

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

// Else one who never reads could have any number of descriptors on their way, also one who looks at a
// message and answers it but leaves it where it is.
TEST_F(PacedMembersTest, TheNextGenerationIsSentWhenTheLastOneHasBeenRead) {
  TestDaemon daemon(socket_);
  Descriptor fd = Enter(0, 1);
  unsigned char bytes[kMaxMessage];
  Joined first, second;
  ASSERT_EQ(recv(fd.get(), bytes, sizeof bytes, MSG_PEEK), ssize_t(sizeof(Joined)));
  ASSERT_TRUE(As(bytes, sizeof(Joined), &first));
  ASSERT_TRUE(SayReady(fd, first.generation));
  ASSERT_TRUE(SendMessage(fd.get(), Leave()));
  ASSERT_TRUE(SendMessage(fd.get(), Request(0, 1)));
  Status();
  int queued = 0;
  ASSERT_EQ(ioctl(fd.get(), SIOCINQ, &queued), 0);
  EXPECT_EQ(queued, int(sizeof(Joined))) << "the first one and nothing behind it";
  ASSERT_TRUE(Await(fd, &first));
  EXPECT_TRUE(Await(fd, &second));
  EXPECT_NE(second.generation, first.generation);
}

// Its generation may be over by the time it has read; it is turned away and may come again.
TEST_F(PacedMembersTest, WhoReadsTooLateForAGenerationIsToldToTryAgain) {
  TestDaemon daemon(socket_);
  Descriptor late = Enter(0, 2);
  Joined joined;
  {
    Descriptor gone = Enter(1, 2);
    ASSERT_TRUE(Await(gone, &joined));
  }
  ASSERT_TRUE(SendMessage(late.get(), Request(0, 2)));  // a Joined and an Over are unread
  {
    Descriptor gone = Enter(1, 2);
    ASSERT_TRUE(Await(gone, &joined));
  }
  Descriptor other = Enter(1, 2);
  Status();
  EXPECT_NE(RefusalOf(late).find("cannot be passed to rank 0"), std::string::npos);
  late = Enter(0, 2);
  EXPECT_TRUE(Await(late, &joined));
  EXPECT_TRUE(Await(other, &joined));
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

}  // namespace
}  // namespace ultraep

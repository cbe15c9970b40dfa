// Groups with slots on GPUs, by members that say they have one: what the daemon passes between them
// and what it refuses. No GPU is touched, as the daemon touches none.
#include <poll.h>

#include <filesystem>
#include <iterator>

#include "daemon/descriptor_budget.h"
#include "tests/support/device_members.h"

namespace ultraep {
namespace {

using namespace test;

class DeviceGroupTest : public DeviceMembersTest {
 protected:
  static void OnFabric(ultraep::Join* join, uint32_t clique) {
    join->device.fabric = uint32_t(FabricState::kReady);
    join->device.cluster[0] = 7;
    join->device.clique = clique;
  }
  std::vector<Descriptor> EnterAll(uint32_t ranks) {
    std::vector<Descriptor> all;
    for (uint32_t r = 0; r < ranks; ++r) all.push_back(Enter(Request(r, ranks)));
    return all;
  }
  // Of the daemon and this test, which are one process.
  static size_t OpenDescriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return size_t(std::distance(begin(all), end(all)));
  }
};

constexpr uint32_t kReceiving = 3, kSending = 4;  // among the descriptors of a Joined

// Passes from each rank to each, itself included, and looks at what arrives.
void ExchangeAmong(const std::vector<std::vector<Descriptor>>& got, uint64_t generation) {
  const auto ranks = uint32_t(got.size());
  for (uint32_t from = 0; from < ranks; ++from)
    for (uint32_t to = 0; to < ranks; ++to) {
      SlotMemory memory;
      memory.generation = generation;
      memory.rank = from;
      memory.bytes = 100 * to + from;
      const int handle = got[from][0].get();  // the doorbell: any descriptor will do
      ASSERT_TRUE(SendMessage(got[from][kSending + to].get(), memory, &handle, 1, MSG_DONTWAIT));
    }
  for (uint32_t to = 0; to < ranks; ++to)
    for (uint32_t from = 0; from < ranks; ++from) {
      Packet packet;
      SlotMemory memory;
      ASSERT_EQ(ReceivePacket(got[to][kReceiving].get(), MSG_DONTWAIT, &packet), Receive::kPacket);
      ASSERT_TRUE(As(packet.bytes, packet.size, &memory));
      EXPECT_EQ(memory.generation, generation);
      EXPECT_EQ(memory.rank, from) << "in the order in which they were sent";
      EXPECT_EQ(memory.bytes, 100 * to + from);
      EXPECT_EQ(packet.descriptors.size(), 1u);
    }
  for (const auto& rank : got) {
    pollfd more{rank[kReceiving].get(), POLLIN, 0};
    EXPECT_EQ(poll(&more, 1, 0), 0) << "nothing of another's";
  }
}

TEST_F(DeviceGroupTest, RanksReachEachOtherGenerationAfterGenerationAndNothingIsLeftOpen) {
  constexpr uint32_t kRanks = 3;
  TestDaemon daemon(socket_);
  const size_t before = OpenDescriptors();
  {
    std::vector<Descriptor> members = EnterAll(kRanks);
    uint64_t last = 0;
    for (int generation = 0; generation < 20; ++generation) {
      std::vector<std::vector<Descriptor>> got;
      Joined joined;
      for (const Descriptor& member : members) {
        got.push_back(AwaitJoined(member, &joined));
        ASSERT_EQ(got.back().size(), 4 + kRanks);
      }
      EXPECT_NE(joined.generation, last);
      last = joined.generation;
      ExchangeAmong(got, joined.generation);
      // One leaves, so that this generation is over; all come again.
      ASSERT_TRUE(SendMessage(members[1].get(), Leave()));
      for (uint32_t r = 0; r < kRanks; ++r) {
        Over over;
        if (r != 1) {
          ASSERT_TRUE(Await(members[r], &over));
        }
        ASSERT_TRUE(SendMessage(members[r].get(), Request(r, kRanks)));
      }
    }
  }
  EXPECT_TRUE(Settles([&] { return OpenDescriptors() == before; }))
      << OpenDescriptors() << " open, " << before << " before";
}

TEST_F(DeviceGroupTest, OnlyBoardsAreInSharedMemory) {
  TestDaemon daemon(socket_);
  std::vector<Descriptor> members = EnterAll(2);
  Joined joined;
  const std::vector<Descriptor> got = AwaitJoined(members[0], &joined);
  ASSERT_EQ(got.size(), 6u);
  const GroupLayout layout(Request(0, 2).config);
  EXPECT_EQ(CheckDescriptor(got[1].get(), layout.file_bytes(SegmentFile::kPlan)), "");
  EXPECT_EQ(CheckDescriptor(got[2].get(), layout.file_bytes(SegmentFile::kBoards)), "");
  Status();
  EXPECT_EQ(Status().memory_bytes, layout.total_bytes());
  EXPECT_LT(layout.total_bytes(), layout.device_bytes());
}

// The kernel counts descriptors on their way: silent ranks may use up their own user's share and no
// more, and whoever waits for it is sent the generation when there is room.
TEST_F(DeviceGroupTest, ARankThatDoesNotReadStopsNobodyAndAllAreSentInTurn) {
  constexpr uint32_t kRanks = 16;
  static_assert(kRanks * (4 + kRanks) > kRanks * kDescriptorsPerConnection, "more than may be");
  TestDaemon daemon(socket_);
  std::vector<Descriptor> members = EnterAll(kRanks);
  std::vector<std::vector<Descriptor>> got(kRanks);
  Joined joined;
  for (uint32_t r = 1; r < kRanks; ++r) {  // rank 0 is silent
    got[r] = AwaitJoined(members[r], &joined);
    ASSERT_EQ(got[r].size(), 4 + kRanks);
  }
  got[0] = AwaitJoined(members[0], &joined);
  ExchangeAmong(got, joined.generation);
}

// The descriptors that silent members have on their way stay within their connections' share.
TEST_F(DeviceGroupTest, WhatIsOnItsWayStaysWithinTheBudget) {
  constexpr uint32_t kRanks = 16;
  TestDaemon daemon(socket_);
  std::vector<Descriptor> members = EnterAll(kRanks);
  Status();
  uint32_t sent = 0;
  for (const Descriptor& member : members) {
    pollfd there{member.get(), POLLIN, 0};
    sent += poll(&there, 1, 0) == 1;
  }
  EXPECT_GE(sent, 1u);
  EXPECT_LE(sent * (4 + kRanks), (kRanks + 2) * kDescriptorsPerConnection);
  // Rank 0 dies unread: its share is free again, and the others learn that it is over.
  members.erase(members.begin());
  Over over;
  Joined joined;
  EXPECT_TRUE(Await(members[0], &over));
}

TEST_F(DeviceGroupTest, AMemberThatIsGoneIsNoticedAtItsSocket) {
  TestDaemon daemon(socket_);
  std::vector<Descriptor> members = EnterAll(2);
  Joined joined;
  const std::vector<Descriptor> stays = AwaitJoined(members[0], &joined);
  std::vector<Descriptor> goes = AwaitJoined(members[1], &joined);
  Status();
  SlotMemory memory;
  goes.clear();
  EXPECT_FALSE(SendMessage(stays[kSending + 1].get(), memory, nullptr, 0, MSG_DONTWAIT));
  EXPECT_EQ(errno, EPIPE) << "the daemon keeps no end of it once everybody has theirs";
}

TEST_F(DeviceGroupTest, MembersAgreeOnWhereSlotsAre) {
  TestDaemon daemon(socket_);
  Descriptor first = Enter(Request(0, 2));
  Status();
  ExpectText(RefusalOf(Enter(Request(1, 2, MemoryKind::kHost))),
             {"memory is 0 here and 1 in the group"});
  auto large = Request(0, kMaxDeviceRanks + 8);
  SetText(large.config.name, "large");
  ExpectText(RefusalOf(Enter(large)), {"ranks is 80, must be at most 72 with slots on GPUs"});
}

TEST_F(DeviceGroupTest, WhoHasNoGpuIsRefused) {
  TestDaemon daemon(socket_);
  auto without = Request(0, 2);
  without.device = {};
  ExpectText(RefusalOf(Enter(without)), {"memory is 1", "rank 0 names no GPU", "memory 0 (host)"});
}

TEST_F(DeviceGroupTest, MixedDevicesAreRefusedNamingBoth) {
  TestDaemon daemon(socket_);
  Descriptor first = Enter(Request(0, 4));
  Status();
  auto other = Request(3, 4);
  SetText(other.device.name, "NVIDIA GB200");
  other.device.architecture = 100;
  ExpectText(RefusalOf(Enter(other)),
             {"mixed devices: rank 0 has NVIDIA H100 (sm_90)", "rank 3 has NVIDIA GB200 (sm_100)"});
}

TEST_F(DeviceGroupTest, TwoRanksOnOneGpuAreRefusedUntilTheOtherHasGone) {
  TestDaemon daemon(socket_);
  Descriptor first = Enter(Request(0, 3));
  Status();
  auto same = Request(2, 3);
  same.device.uuid[0] = 1;
  Descriptor second = Enter(same);
  Refused refused;
  ASSERT_TRUE(Await(second, &refused));
  EXPECT_EQ(refused.retry, 1u) << "the other one may be ending";
  ExpectText(GetText(refused.text),
             {"rank 0 and rank 2 are both on GPU-01000000-0000-0000-0000-000000000000"});
  first.reset();
  ASSERT_TRUE(Settles([&] { return Status().groups == 0; }));
  Descriptor again = Enter(same);
  EXPECT_EQ(Status().groups, 1u);
}

TEST_F(DeviceGroupTest, TwoRanksOnOneGpuAreAGroupWhereTheDaemonIsToldSo) {
  DaemonOptions options = TestDaemon::Defaults();
  options.share_devices = true;
  TestDaemon daemon(socket_, options);
  std::vector<Descriptor> members;
  for (uint32_t r = 0; r < 2; ++r) {
    auto join = Request(r, 2);
    join.device.uuid[0] = 1;
    members.push_back(Enter(join));
  }
  Joined joined;
  for (const Descriptor& member : members) EXPECT_EQ(AwaitJoined(member, &joined).size(), 6u);
}

TEST_F(DeviceGroupTest, ADomainAcrossNvlinkCliquesIsRefusedWithTheOneThatFits) {
  TestDaemon daemon(socket_);
  std::vector<Descriptor> members;
  for (uint32_t r = 0; r < 6; ++r) {
    auto join = Request(r, 6);
    OnFabric(&join, r / 3);
    members.push_back(Enter(join));
  }
  for (const Descriptor& member : members)
    ExpectText(RefusalOf(member),
               {"domain_size is 0 (all ranks)", "rank 0 is in NVLink clique 0 of cluster 07000000-",
                "rank 3 in clique 1", "domain_size 3 would fit"});
  members.clear();
  for (uint32_t r = 0; r < 6; ++r) {
    auto join = Request(r, 6);
    join.config.domain_size = 3;
    OnFabric(&join, r / 3);
    SetText(join.config.name, "fits");
    members.push_back(Enter(join));
  }
  Joined joined;
  for (const Descriptor& member : members) EXPECT_EQ(AwaitJoined(member, &joined).size(), 10u);
}

TEST_F(DeviceGroupTest, CliquesOutOfOrderFitNoDomain) {
  TestDaemon daemon(socket_);
  std::vector<Descriptor> members;
  for (uint32_t r = 0; r < 4; ++r) {
    auto join = Request(r, 4);
    join.config.domain_size = 2;
    OnFabric(&join, r % 2);
    members.push_back(Enter(join));
  }
  ExpectText(RefusalOf(members[0]), {"domain_size is 2", "consecutive ranks"});
}

TEST_F(DeviceGroupTest, WhereTheFabricSaysNothingAnyRanksAreOneDomain) {
  TestDaemon daemon(socket_);
  std::vector<Descriptor> members;
  for (uint32_t r = 0; r < 2; ++r) {
    auto join = Request(r, 2);
    OnFabric(&join, r);
    join.device.fabric = uint32_t(r ? FabricState::kPending : FabricState::kReady);
    members.push_back(Enter(join));
  }
  Joined joined;
  EXPECT_EQ(AwaitJoined(members[0], &joined).size(), 6u);
}

TEST_F(DeviceGroupTest, SlotsOfTheDaemonAreRefusedWhereItLoadsNoDriver) {
  TestDaemon daemon(socket_);
  Descriptor only = Enter(Request(0, 1, MemoryKind::kCudaDaemon));
  ExpectText(RefusalOf(only),
             {"memory is 2", "start the daemon with --cuda_backend auto", "ULTRAEP_CUDA_MEMORY"});
}

}  // namespace
}  // namespace ultraep

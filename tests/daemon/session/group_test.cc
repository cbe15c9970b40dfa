// Who belongs to a group and when its memory changes, without sockets.
#include <gtest/gtest.h>

#include "daemon/memory/system_memory.h"
#include "daemon/session/groups.h"
#include "protocol/transport/waiting.h"
#include "tests/support/test_daemon.h"

namespace ultraep {
namespace {

constexpr uint64_t kMs = 1'000'000;

class GroupTest : public testing::Test {
 protected:
  static ultraep::Join Request(uint32_t rank, const char* name = "group", uint8_t nonce = 0) {
    ultraep::Join j;
    SetText(j.config.name, name);
    j.config.nonce[0] = nonce;
    j.config.ranks = j.config.experts = 3;
    j.config.slots = j.config.layers = j.config.window = j.config.slot_sets = 1;
    j.config.shard_count = 1;
    j.config.shard_bytes[0] = 1 << 20;
    j.config.step_timeout_ns = 1000 * kMs;
    j.rank = rank;
    return j;
  }
  // Owner 10 + rank; the text of the refusal, empty when it waits.
  std::string Join(uint32_t rank, uint64_t owner = 0, uid_t uid = 1, const char* name = "group",
                   uint8_t nonce = 0) {
    refusal_ = {};
    last_ = groups_.Join(owner ? owner : 10 + rank, uid, Request(rank, name, nonce), &refusal_);
    if (last_) group_ = last_;
    return refusal_.text;
  }
  void JoinAll() {
    for (uint32_t r = 0; r < 3; ++r) ASSERT_EQ(Join(r), "");
  }
  void Open() {
    JoinAll();
    ASSERT_TRUE(groups_.Begin(group_.get(), &refusal_)) << refusal_.text;
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Ready(r));
    ASSERT_EQ(Gate(), GateState::kOpen);
  }
  bool Ready(uint32_t rank) { return group_->Ready(10 + rank, rank, group_->generation()->id()); }
  GateState Gate() { return group_->generation()->gate().state; }
  MemberState OnBoard(const std::shared_ptr<GroupGeneration>& g, uint32_t rank) {
    return MemberState(g->boards().member(rank).value.load());
  }
  // Rank `rank`'s own view of its board: the daemon's is read-only.
  Mapping MapRankBoard(uint32_t rank) {
    int pair[2] = {};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    Descriptor ours(pair[0]), theirs(pair[1]);
    EXPECT_TRUE(group_->generation()->SendTo(theirs.get(), rank, 0));
    Packet packet;
    Mapping mapping;
    EXPECT_EQ(ReceivePacket(ours.get(), MSG_DONTWAIT, &packet), Receive::kPacket);
    const GroupLayout& layout = group_->generation()->layout();
    const uint32_t file = 1 + uint32_t(layout.file(SegmentKind::kRankBoard));
    EXPECT_EQ(mapping.Map(packet.descriptors.at(file).get(),
                          layout.offset(SegmentKind::kRankBoard, rank), layout.rank_board_bytes,
                          true),
              "");
    return mapping;
  }
  // One look of the daemon, `ms` after the last one.
  std::vector<Groups::Fenced> Tick(uint64_t ms) {
    now_ += ms * kMs;
    return groups_.Fence(now_);
  }

  DaemonOptions options_ = test::TestDaemon::Defaults();
  Waker waker_;
  PlanLoop planner_{&waker_, 0};
  NodeView view_;
  NodeDevices devices_;
  Groups groups_{options_, devices_, &planner_, &view_};
  std::shared_ptr<Group> group_, last_;
  Refusal refusal_;
  uint64_t now_ = 1000 * kMs;
};

TEST_F(GroupTest, MemoryIsMadeWhenTheLastRankHasAskedAndTheGateOpensWhenTheLastOneIsReady) {
  ASSERT_EQ(Join(0), "");
  ASSERT_EQ(Join(2), "");
  EXPECT_FALSE(groups_.Begin(group_.get(), &refusal_));
  EXPECT_EQ(refusal_.text, "");
  EXPECT_EQ(group_->generation(), nullptr) << "no memory for a group that may never be complete";
  ASSERT_EQ(Join(1), "");
  ASSERT_TRUE(groups_.Begin(group_.get(), &refusal_));
  ASSERT_TRUE(Ready(0));
  ASSERT_TRUE(Ready(1));
  EXPECT_EQ(Gate(), GateState::kClosed);
  ASSERT_TRUE(Ready(2));
  EXPECT_EQ(Gate(), GateState::kOpen);
}

TEST_F(GroupTest, ALostMemberEndsTheGenerationAndTheNextOneHasNewMemory) {
  Open();
  const auto first = group_->generation();
  groups_.Gone(group_, 11, 1, MemberState::kGone);
  EXPECT_EQ(Gate(), GateState::kEnded);
  EXPECT_EQ(OnBoard(first, 1), MemberState::kGone);
  ASSERT_EQ(Join(0), "");
  ASSERT_EQ(Join(2), "");
  EXPECT_EQ(group_->generation(), nullptr);
  ASSERT_EQ(Join(1, 99), "") << "a new process in its place";
  ASSERT_TRUE(groups_.Begin(group_.get(), &refusal_));
  EXPECT_NE(group_->generation()->id(), first->id());
  EXPECT_NE(group_->generation()->boards().verdict_base, first->boards().verdict_base);
  EXPECT_EQ(OnBoard(first, 1), MemberState::kGone) << "who waits there for it waits in vain";
}

TEST_F(GroupTest, AMemberLostBeforeTheGateOpensEndsTheGenerationToo) {
  JoinAll();
  ASSERT_TRUE(groups_.Begin(group_.get(), &refusal_));
  ASSERT_TRUE(Ready(0));
  groups_.Gone(group_, 12, 2, MemberState::kGone);
  EXPECT_EQ(Gate(), GateState::kDead);
  EXPECT_TRUE(Ready(1)) << "late, and no fault of its own";
  EXPECT_EQ(Gate(), GateState::kDead);
  ASSERT_EQ(Join(1), "") << refusal_.text;
  ASSERT_EQ(Join(0), "");
  EXPECT_NE(Join(0), "") << "it waits already";
}

TEST_F(GroupTest, AMemberLostAfterItsGenerationIsMarkedThereForThoseWhoStillUseItsSlots) {
  Open();
  const auto first = group_->generation();
  groups_.Gone(group_, 11, 1, MemberState::kGone);
  ASSERT_EQ(Join(0), "");
  groups_.Gone(group_, 12, 2, MemberState::kGone);
  EXPECT_EQ(OnBoard(first, 2), MemberState::kGone);
}

TEST_F(GroupTest, AHeartbeatThatStandsStillIsFencedAndMayComeBack) {
  Open();
  const auto g = group_->generation();
  const uint64_t lease_ms = options_.lease_ns / kMs;
  std::vector<Groups::Fenced> fenced;
  Mapping alive[] = {MapRankBoard(0), MapRankBoard(2)};
  for (uint64_t t = 0; t < lease_ms + 200 && fenced.empty(); t += 100) {
    for (Mapping& board : alive)
      reinterpret_cast<RankBoard*>(board.base())->heartbeat.value = now_;
    fenced = Tick(100);
    if (t + 100 < lease_ms) {
      ASSERT_TRUE(fenced.empty()) << t;
    }
  }
  ASSERT_EQ(fenced.size(), 1u);
  EXPECT_EQ(fenced[0].ranks, std::vector<uint32_t>{1});
  EXPECT_EQ(Gate(), GateState::kEnded);
  EXPECT_EQ(OnBoard(g, 1), MemberState::kFenced);
  ASSERT_EQ(Join(0), "");
  ASSERT_EQ(Join(2), "");
  ASSERT_EQ(Join(1), "") << "it woke up";
  EXPECT_TRUE(groups_.Begin(group_.get(), &refusal_));
}

// Its group would wait for it for ever: the place of a living process is not given to another one.
TEST_F(GroupTest, AHeartbeatThatStandsStillAfterTheGenerationIsFencedToo) {
  Open();
  const auto g = group_->generation();
  groups_.Gone(group_, 11, 1, MemberState::kGone);
  ASSERT_EQ(Join(0), "");  // and rank 2 is stopped before it can
  std::vector<uint32_t> fenced;
  for (uint64_t t = 0; t < 10'000 && fenced.empty(); t += 100)
    for (const auto& f : Tick(100)) fenced = f.ranks;
  EXPECT_EQ(fenced, std::vector<uint32_t>{2}) << "who waits for the next one is not looked at";
  EXPECT_EQ(OnBoard(g, 2), MemberState::kFenced);
  ASSERT_EQ(Join(1, 91), "");
  ASSERT_EQ(Join(2, 92), "") << "another process, while the stopped one still has its connection";
  EXPECT_TRUE(groups_.Begin(group_.get(), &refusal_));
}

TEST_F(GroupTest, AFencedRanksPlaceIsFreeForANewProcess) {
  Open();
  for (uint64_t t = 0; Tick(100).empty(); ++t) ASSERT_LT(t, 100u);
  EXPECT_TRUE(groups_.empty()) << "all three stood still";
  ASSERT_EQ(Join(1, 77), "");
}

TEST_F(GroupTest, ADaemonThatWasStoppedFencesNobodyForTheTimeItMissed) {
  Open();
  EXPECT_TRUE(Tick(100).empty());
  EXPECT_TRUE(Tick(60'000).empty());
  EXPECT_TRUE(Tick(100).empty());
  EXPECT_EQ(Gate(), GateState::kOpen);
}

TEST_F(GroupTest, ARankWhoseProcessStillLivesIsNotReplacedAndTheCallerMayTryAgain) {
  Open();
  EXPECT_NE(Join(1, 99), "");
  EXPECT_TRUE(refusal_.retry);
  groups_.Gone(group_, 11, 1, MemberState::kGone);
  EXPECT_EQ(Join(1, 99), "");
}

TEST_F(GroupTest, OneUsersGroupsAreLimitedAndOtherUsersAreNot) {
  for (uint8_t n = 0; n < options_.uid_groups; ++n) ASSERT_EQ(Join(0, 100 + n, 1, "group", n), "");
  EXPECT_NE(Join(0, 200, 1, "group", 99).find("--uid_groups is 8"), std::string::npos);
  EXPECT_TRUE(refusal_.retry);
  EXPECT_EQ(Join(0, 201, 2, "group", 99), "");
  EXPECT_EQ(Join(1, 202, 1, "group", 0), "") << "an existing group is no new one";
}

TEST_F(GroupTest, EqualNamesAndNoncesOfTwoUsersAreTwoGroups) {
  ASSERT_EQ(Join(0, 100, 1), "");
  const auto mine = group_;
  ASSERT_EQ(Join(0, 200, 2), "") << "rank 0 is free there";
  EXPECT_NE(group_, mine);
  EXPECT_EQ(groups_.all().size(), 2u);
}

// Six generations end: two of their boards are no longer kept, four are, and one is the present
// one.
TEST_F(GroupTest, WhatRanksCountedInEveryGenerationIsShown) {
  Open();
  std::vector<Mapping> boards;
  const auto count = [&](const Mapping& board, uint64_t planned) {
    reinterpret_cast<RankBoard*>(board.base())->statistics.planned += planned;
  };
  uint64_t planned = 0;
  for (uint64_t generation = 1; generation <= 7; ++generation) {
    boards.push_back(MapRankBoard(0));
    boards.push_back(MapRankBoard(2));
    count(boards[boards.size() - 2], generation);
    count(boards.back(), 1000 * generation);
    planned += 1001 * generation;
    EXPECT_EQ(group_->Source().Status().ranks.planned, planned) << generation;
    if (generation == 7) break;
    groups_.Gone(group_, 11, 1, MemberState::kGone);
    Open();
  }
  EXPECT_EQ(group_->Source().generations.size(), 5u);
  count(boards[2 * 3], 5);  // a straggler in the fourth
  EXPECT_EQ(group_->Source().Status().ranks.planned, planned + 5);
}

// A rank that is gone beats no more; its last beat is nobody's age.
TEST_F(GroupTest, OnlyMembersThatAreThereHaveAHeartbeatsAge) {
  Open();
  const uint64_t start = NowNs();
  std::vector<Mapping> boards;
  for (uint32_t r = 0; r < 3; ++r) {
    boards.push_back(MapRankBoard(r));
    reinterpret_cast<RankBoard*>(boards[r].base())->heartbeat.value = r == 1 ? 1 : start;
  }
  EXPECT_GE(group_->Source().Status().heartbeat_age_ns, start - 1);
  groups_.Gone(group_, 11, 1, MemberState::kGone);
  const uint64_t age = group_->Source().Status().heartbeat_age_ns;
  EXPECT_LE(age, NowNs() - start);
}

class GroupDetailTest : public GroupTest {
 protected:
  GroupDetailTest() { SetSeries(20); }
  void SetSeries(uint32_t series) {
    options_.metrics_detail_series = series;
    detailed_ = std::make_unique<Groups>(options_, devices_, &planner_, &view_);
  }
  // Layers kept, and whether with tokens per rank. Three ranks: 2 x layers + 3 x layers series.
  std::pair<size_t, bool> Kept(uint8_t nonce, uint32_t layers) {
    ultraep::Join request = Request(0, "group", nonce);
    request.config.layers = layers;
    made_.push_back(detailed_->Join(100 + nonce, 1, request, &refusal_));
    const std::vector<LayerStatistics> kept = made_.back()->statistics().Layers();
    return {kept.size(), !kept.empty() && kept[0].rank_tokens.size() == 3};
  }
  void Close(uint8_t nonce) {
    for (const auto& group : made_)
      if (group->config().nonce[0] == nonce)
        detailed_->Gone(group, 100 + nonce, 0, MemberState::kLeft);
  }

  std::unique_ptr<Groups> detailed_;
  std::vector<std::shared_ptr<Group>> made_;
};

TEST_F(GroupDetailTest, AllGroupsTogetherKeepNoMoreThanTheDetailSeries) {
  EXPECT_EQ(Kept(0, 3), std::pair(size_t{3}, true)) << "15 of 20";
  EXPECT_EQ(Kept(1, 2), std::pair(size_t{2}, false)) << "4 of 5, and 6 have no room";
  EXPECT_EQ(Kept(2, 1), std::pair(size_t{0}, false)) << "1 is left";
  Close(0);
  EXPECT_EQ(Kept(3, 3), std::pair(size_t{3}, true)) << "what a group kept is given back";
  Close(1);
  Close(3);
  EXPECT_EQ(Kept(4, 11), std::pair(size_t{0}, false)) << "more than there is";
  EXPECT_EQ(Kept(5, 10), std::pair(size_t{10}, false)) << "all";
  EXPECT_EQ(Kept(6, 1), std::pair(size_t{0}, false));
}

TEST_F(GroupDetailTest, WhatHasNoRoomIsLogged) {
  testing::internal::CaptureStderr();
  Kept(0, 8);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("group group: no tokens per layer and rank in the metrics: 24 series, 4 of "
                     "--metrics_detail_series 20 are left"),
            log.npos)
      << log;
}

TEST_F(GroupDetailTest, ItIsOffAt0) {
  SetSeries(0);
  testing::internal::CaptureStderr();
  EXPECT_EQ(Kept(0, 1), std::pair(size_t{0}, false));
  EXPECT_EQ(testing::internal::GetCapturedStderr().find("warning"), std::string::npos);
}

class GroupMemoryLimitTest : public GroupTest {
 protected:
  GroupMemoryLimitTest() {
    options_.uid_memory_limit_bytes = 11 << 20;  // a generation has 3 slots of 1 MiB
    limited_ = std::make_unique<Groups>(options_, devices_, &planner_, &view_);
  }
  std::string Ask(uint32_t rank, uid_t uid, uint8_t nonce) {
    refusal_ = {};
    last_ = limited_->Join(++owner_, uid, Request(rank, "group", nonce), &refusal_);
    return refusal_.text;
  }
  std::string Begin(uid_t uid, uint8_t nonce) {
    for (uint32_t r = 0; r < 3; ++r)
      if (std::string wrong = Ask(r, uid, nonce); !wrong.empty()) return wrong;
    limited_->Begin(last_.get(), &refusal_);
    return refusal_.text;
  }

  std::unique_ptr<Groups> limited_;
  uint64_t owner_ = 0;
};

TEST_F(GroupMemoryLimitTest, OneUsersMemoryIsLimitedAndOthersAreNotAffected) {
  EXPECT_EQ(Begin(1, 0), "");
  EXPECT_EQ(Begin(1, 1), "");
  EXPECT_EQ(Begin(1, 2), "");
  const std::string wrong = Begin(1, 3);
  EXPECT_NE(wrong.find("--uid_memory_mib"), std::string::npos) << wrong;
  EXPECT_TRUE(refusal_.retry) << "it fits when another group ends";
  EXPECT_EQ(Begin(2, 3), "");
}

TEST_F(GroupMemoryLimitTest, AGroupThatCanNeverFitIsRefusedForGood) {
  ultraep::Join big = Request(0);
  big.config.shard_bytes[0] = 4 << 20;
  EXPECT_EQ(limited_->Join(1, 1, big, &refusal_), nullptr);
  EXPECT_FALSE(refusal_.retry);
}

// A machine that is full now, for instance of what ranks still map of a daemon before, may have room
// later; one that is too small will not.
TEST_F(GroupMemoryLimitTest, WithoutALimitWhatTheMachineHasLeftNowCounts) {
  options_.memory_limit_bytes = options_.uid_memory_limit_bytes = 0;
  Groups unlimited(options_, devices_, &planner_, &view_);
  const SystemMemory machine = ReadSystemMemory();
  ASSERT_LT(machine.available, machine.total);
  ultraep::Join big = Request(0);
  const auto ask = [&](uint64_t bytes) {
    refusal_ = {};
    big.config.shard_bytes[0] = bytes / 3;
    big.config.nonce[0] += 1;
    return unlimited.Join(++owner_, 1, big, &refusal_) != nullptr;
  };
  EXPECT_TRUE(ask(machine.available / 10 * 7)) << refusal_.text;
  EXPECT_FALSE(ask(machine.available / 20 * 8 + machine.total / 20 * 8));
  EXPECT_TRUE(refusal_.retry) << refusal_.text;
  EXPECT_FALSE(ask(machine.total / 10 * 9));
  EXPECT_FALSE(refusal_.retry) << refusal_.text;
}

TEST_F(GroupMemoryLimitTest, TheGenerationBeforeCountsUntilTheNextOneIsOpen) {
  ASSERT_EQ(Begin(1, 0), "");
  const auto group = last_;
  const uint64_t one = group->memory_bytes();
  group->generation()->End();
  for (uint64_t r = 0; r < 3; ++r)
    ASSERT_NE(limited_->Join(r + 1, 1, Request(uint32_t(r)), &refusal_), nullptr) << refusal_.text;
  ASSERT_TRUE(limited_->Begin(group.get(), &refusal_)) << refusal_.text;
  EXPECT_EQ(group->memory_bytes(), 2 * one);
  for (uint64_t r = 0; r < 3; ++r)
    ASSERT_TRUE(group->Ready(r + 1, uint32_t(r), group->generation()->id()));
  EXPECT_EQ(group->memory_bytes(), one);
}

}  // namespace
}  // namespace ultraep

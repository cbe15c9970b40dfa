#include "plugin/core/streamer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <tuple>

#include "tests/support/memory_group.h"

namespace ultraep {
namespace {

using test::MemoryGroup;
using test::SmallConfig;

constexpr uint64_t kMs = 1'000'000;

// Three ranks, one expert each; mains are filled with a pattern of their own.
class StreamerTest : public testing::Test {
 protected:
  StreamerTest() {
    for (uint32_t r = 0; r < 3; ++r) {
      generations_.push_back(group_.Attach(r));
      for (uint32_t i = 0; i < 2; ++i)
        mains_[r][i].assign(config_.shard_bytes[i], static_cast<unsigned char>(16 * r + i + 1));
    }
  }
  std::vector<const void*> Mains(uint32_t r) { return {mains_[r][0].data(), mains_[r][1].data()}; }
  Result Start(uint32_t r, const std::vector<Replica>& replicas, uint64_t sequence = 0,
               uint32_t set = 0, bool restore = false) {
    RecordedPlan plan;
    plan.shape = config_.shape();
    plan.header.sequence = sequence;
    plan.replicas = replicas;
    return generations_[r]->streamer->Start(plan, restore, set, Mains(r).data(), &streams_[r]);
  }
  Result Arrived(uint32_t r, uint64_t ms = 10000) {
    return generations_[r]->streamer->AwaitArrival(streams_[r].get(), ms * kMs);
  }
  Result Release(uint32_t r, uint64_t ms = 10000) {
    return generations_[r]->streamer->Release(streams_[r].get(), ms * kMs);
  }
  bool SlotHolds(uint32_t r, uint32_t expert) {
    for (uint32_t i = 0; i < 2; ++i) {
      const unsigned char* at = group_.boards().shard(r, 0, 0, i);
      for (uint64_t b = 0; b < config_.shard_bytes[i]; ++b)
        if (at[b] != mains_[expert][i][b]) return false;
    }
    return true;
  }

  GroupConfig config_ = SmallConfig(3, 3, 1, 2);
  MemoryGroup group_{config_};
  std::vector<unsigned char> mains_[3][2];
  std::shared_ptr<Stream> streams_[3];
  std::vector<std::shared_ptr<Generation>> generations_;
};

const std::vector<Replica> kDirect = {{0, 1, 0, -1, 0, 5}, {0, 2, 0, -1, 0, 5}};
const std::vector<Replica> kRelay = {{0, 1, 0, -1, 0, 5}, {0, 2, 0, 0, 0, 5}};

TEST_F(StreamerTest, DirectSendsFillEverySlotByteForByte) {
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r, kDirect).ok());
  for (uint32_t r = 1; r < 3; ++r) {
    ASSERT_TRUE(Arrived(r).ok());
    EXPECT_TRUE(SlotHolds(r, 0));
  }
  for (uint32_t r = 0; r < 3; ++r) EXPECT_TRUE(Release(r).ok());
  EXPECT_EQ(streams_[0]->tally.bytes, 2 * (config_.shard_bytes[0] + config_.shard_bytes[1]));
}

TEST_F(StreamerTest, ARelayForwardsFromItsOwnSlot) {
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r, kRelay).ok());
  ASSERT_TRUE(Arrived(2).ok());
  EXPECT_TRUE(SlotHolds(2, 0));
  for (uint32_t r = 0; r < 3; ++r) EXPECT_TRUE(Release(r).ok());
  EXPECT_EQ(streams_[1]->tally.bytes, config_.shard_bytes[0] + config_.shard_bytes[1]);
}

TEST_F(StreamerTest, NothingIsStoredBeforeTheDestinationReleasedTheLastOperation) {
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r, kDirect).ok());
  ASSERT_TRUE(Arrived(1).ok());
  ASSERT_TRUE(Arrived(2).ok());
  ASSERT_TRUE(Release(0).ok());
  ASSERT_TRUE(Release(2).ok());
  // Rank 1 still computes; expert 2 shall replace expert 0 in its slot.
  ASSERT_TRUE(Start(0, {{2, 1, 0, -1, 0, 1}}, 1).ok());
  ASSERT_TRUE(Start(2, {{2, 1, 0, -1, 0, 1}}, 1).ok());
  EXPECT_EQ(Release(2, 50).status, ULTRAEP_TIMEOUT) << "its send must wait";
  EXPECT_TRUE(SlotHolds(1, 0));
  ASSERT_TRUE(Release(1).ok());
  ASSERT_TRUE(Start(1, {{2, 1, 0, -1, 0, 1}}, 1).ok());
  ASSERT_TRUE(Arrived(1).ok());
  EXPECT_TRUE(SlotHolds(1, 2));
  EXPECT_TRUE(Release(2).ok());
  EXPECT_TRUE(Release(0).ok());
  EXPECT_TRUE(Release(1).ok());
}

TEST_F(StreamerTest, ASlotSetInUseIsRefusedWithTheFix) {
  ASSERT_TRUE(Start(1, kDirect).ok());
  Result busy = Start(1, kDirect, 1);
  EXPECT_EQ(busy.status, ULTRAEP_INVALID);
  EXPECT_NE(busy.text.find("more slot_sets"), std::string::npos) << busy.text;
  EXPECT_EQ(Start(1, kDirect, 2, 1).text, "slot_set is 1, the group has 1");
}

TEST_F(StreamerTest, ASenderThatDiedFailsTheReceiverAtOnceAndIsNamed) {
  ASSERT_TRUE(Start(1, kDirect).ok());
  group_.SetMember(0, MemberState::kGone);
  const uint64_t start = NowNs();
  Result failed = Arrived(1);
  EXPECT_EQ(failed.status, ULTRAEP_FAILED);
  EXPECT_NE(failed.text.find("rank 0 is gone"), std::string::npos) << failed.text;
  EXPECT_LT(NowNs() - start, 5'000 * kMs);
  EXPECT_EQ(LoadGate(group_.boards().gate()).state, GateState::kClosed)
      << "a closed gate cannot fail";
}

TEST_F(StreamerTest, ADeadRelayFailsThoseBehindItAndTheGate) {
  OpenGate(group_.boards().gate());
  ASSERT_TRUE(Start(2, kRelay).ok());
  group_.SetMember(1, MemberState::kGone);
  Result failed = Arrived(2);
  EXPECT_EQ(failed.status, ULTRAEP_FAILED);
  EXPECT_NE(failed.text.find("rank 1 is gone"), std::string::npos) << failed.text;
  EXPECT_EQ(LoadGate(group_.boards().gate()).state, GateState::kFailed);
}

TEST_F(StreamerTest, WhatASenderDeliveredBeforeItDiedCounts) {
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r, kDirect).ok());
  ASSERT_TRUE(Release(0).ok());
  group_.SetMember(0, MemberState::kGone);
  EXPECT_TRUE(Arrived(1).ok());
  EXPECT_TRUE(SlotHolds(1, 0));
}

TEST_F(StreamerTest, ADestinationThatDiedFailsTheSenderAndAFailedGroupIsNeverWrittenAgain) {
  OpenGate(group_.boards().gate());
  for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r, kDirect).ok());
  ASSERT_TRUE(Release(0).ok());  // operation 1 is over for the sender; rank 1 never issues another
  ASSERT_TRUE(Arrived(2).ok());
  ASSERT_TRUE(Release(2).ok());
  group_.SetMember(1, MemberState::kGone);
  ASSERT_TRUE(Start(0, {{0, 1, 0, -1, 0, 1}}, 1).ok());
  Result failed = Release(0);
  EXPECT_EQ(failed.status, ULTRAEP_FAILED);
  EXPECT_NE(failed.text.find("rank 1 is gone"), std::string::npos) << failed.text;
  EXPECT_EQ(LoadGate(group_.boards().gate()).state, GateState::kFailed);
  EXPECT_EQ(Start(2, {{2, 0, 0, -1, 0, 1}}, 1).status, ULTRAEP_FAILED);
  EXPECT_EQ(group_.boards().shard(0, 0, 0, 0)[0], 0) << "rule 7";
}

// The gate fails while the sender waits for one of two destinations; that one accepted just before.
TEST_F(StreamerTest, AfterAFailureNothingIsSentAlsoToWhoHasAccepted) {
  OpenGate(group_.boards().gate());
  ASSERT_TRUE(Start(1, kDirect).ok());
  ASSERT_TRUE(Start(0, kDirect).ok());
  EXPECT_EQ(Arrived(1, 20).status, ULTRAEP_TIMEOUT) << "both are fed at once";
  FailGate(group_.boards().gate());
  RankBoard& late = group_.boards().rank(2);
  late.accepts[0].value = streams_[0]->number;
  PulseAndWake(late.accept_pulse);
  EXPECT_EQ(Release(0).status, ULTRAEP_FAILED);
  for (uint32_t r : {1u, 2u}) EXPECT_EQ(group_.boards().shard(r, 0, 0, 0)[0], 0) << "rule 7";
}

// A late transfer of step 0 would otherwise land on top of step 1's weights.
TEST_F(StreamerTest, SlotsAreNotReleasedWhileATransferIntoThemIsUnderWay) {
  OpenGate(group_.boards().gate());
  ASSERT_TRUE(Start(1, {{0, 1, 0, -1, 0, 5}}, 0).ok());
  EXPECT_EQ(Release(1, 30).status, ULTRAEP_TIMEOUT);
  ASSERT_TRUE(Start(0, {{0, 1, 0, -1, 0, 5}}, 0).ok());
  EXPECT_TRUE(Release(1).ok());
  EXPECT_EQ(Arrived(1).status, ULTRAEP_INVALID) << "its slots may hold another step by now";
}

// Rank 1 is in step 0; rank 2 missed it and would stream step 1 into the same slot.
TEST_F(StreamerTest, ARankThatMissedACallStoresNothingAndFailsAtOnce) {
  OpenGate(group_.boards().gate());
  ASSERT_TRUE(Start(1, {{0, 1, 0, -1, 0, 5}}, 0).ok());
  ASSERT_TRUE(Start(2, {{2, 1, 0, -1, 0, 5}}, 1).ok());
  Result failed = Release(2);
  EXPECT_EQ(failed.status, ULTRAEP_FAILED);
  EXPECT_NE(failed.text.find("rank 1 is in another operation"), std::string::npos) << failed.text;
  EXPECT_EQ(group_.boards().shard(1, 0, 0, 0)[0], 0) << "not one byte";
  EXPECT_EQ(Arrived(1).status, ULTRAEP_FAILED);
}

TEST_F(StreamerTest, ARestoreStreamsAnEarlierPlanAgainAlsoAfterLaterOnes) {
  const std::vector<Replica> later = {{2, 1, 0, -1, 0, 5}};
  using Operation = std::tuple<std::vector<Replica>, uint64_t, bool>;
  for (const auto& [plan, sequence, restore] :
       {Operation(kDirect, 0, false), Operation(later, 1, false), Operation(kDirect, 0, true)}) {
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r, plan, sequence, 0, restore).ok());
    ASSERT_TRUE(Arrived(1).ok());
    EXPECT_TRUE(SlotHolds(1, plan[0].expert)) << sequence;
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Release(r).ok());
  }
}

TEST_F(StreamerTest, RestoresInAnotherOrderFailBeforeAnythingIsStored) {
  OpenGate(group_.boards().gate());
  for (uint64_t s = 0; s < 2; ++s) {
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Start(r, kDirect, s).ok());
    for (uint32_t r = 0; r < 3; ++r) ASSERT_TRUE(Release(r).ok());
  }
  std::memset(group_.boards().shard(1, 0, 0, 0), 0, 64);
  ASSERT_TRUE(Start(0, kDirect, 1, 0, true).ok());
  ASSERT_TRUE(Start(1, kDirect, 0, 0, true).ok());
  EXPECT_EQ(Release(0).status, ULTRAEP_FAILED);
  EXPECT_EQ(group_.boards().shard(1, 0, 0, 0)[0], 0);
}

// A step streamed on different slot sets is not the same history, whoever took part in it.
TEST_F(StreamerTest, AnotherSlotSetIsAnotherHistory) {
  GroupConfig config = config_;
  config.slot_sets = 2;
  MemoryGroup group(config);
  OpenGate(group.boards().gate());
  std::shared_ptr<Stream> streams[2];
  std::vector<std::shared_ptr<Generation>> ranks = {group.Attach(0), group.Attach(1)};
  const auto start = [&](uint32_t r, const std::vector<Replica>& replicas, uint64_t sequence,
                         uint32_t set) {
    RecordedPlan plan;
    plan.shape = config.shape();
    plan.header.sequence = sequence;
    plan.replicas = replicas;
    return ranks[r]->streamer->Start(plan, false, set, Mains(r).data(), &streams[r]);
  };
  for (uint32_t r = 0; r < 2; ++r) {
    ASSERT_TRUE(start(r, {}, 0, r).ok());
    ASSERT_TRUE(ranks[r]->streamer->Release(streams[r].get(), 1000 * kMs).ok());
  }
  for (uint32_t r = 0; r < 2; ++r) ASSERT_TRUE(start(r, {{0, 1, 0, -1, 0, 5}}, 1, 0).ok());
  Result failed = ranks[0]->streamer->Release(streams[0].get(), 10'000 * kMs);
  EXPECT_EQ(failed.status, ULTRAEP_FAILED);
  EXPECT_NE(failed.text.find("rank 1 is in another operation"), std::string::npos) << failed.text;
}

TEST_F(StreamerTest, StreamsOutOfTheOrderOfTheirStepsAreRefused) {
  for (uint32_t r = 1; r < 3; ++r) ASSERT_TRUE(Start(r, {{1, 2, 0, -1, 0, 5}}, 4).ok());
  ASSERT_TRUE(Start(0, {{1, 2, 0, -1, 0, 5}}, 4).ok());
  ASSERT_TRUE(Release(0).ok());
  EXPECT_EQ(Start(0, {{1, 2, 0, -1, 0, 5}}, 4).text,
            "step 4 cannot be streamed after step 4: streams go in the order of their steps");
}

TEST_F(StreamerTest, AMissingTransferTimesOutNamingTheSender) {
  ASSERT_TRUE(Start(2, kDirect).ok());
  Result late = Arrived(2, 20);
  EXPECT_EQ(late.status, ULTRAEP_TIMEOUT);
  EXPECT_NE(late.text.find("rank 0 has not sent it"), std::string::npos) << late.text;
}

// The time spent on the own sends counts; a release that waits to the step timeout gives up there.
TEST_F(StreamerTest, AReleaseGivesUpAtTheStepTimeoutAndShorterWaitsDoNot) {
  OpenGate(group_.boards().gate());
  for (auto& g : generations_) g->settings.step_timeout_ns = 300 * kMs;
  ASSERT_TRUE(Start(2, kDirect).ok());
  EXPECT_EQ(Release(2, 50).status, ULTRAEP_TIMEOUT) << "it may be repeated";
  EXPECT_EQ(LoadGate(group_.boards().gate()).state, GateState::kOpen);
  Result late = Release(2, 300);
  EXPECT_EQ(late.status, ULTRAEP_FAILED);
  EXPECT_NE(late.text.find("rank 0 has not sent it"), std::string::npos) << late.text;
  EXPECT_EQ(LoadGate(group_.boards().gate()).state, GateState::kFailed);
}

}  // namespace
}  // namespace ultraep

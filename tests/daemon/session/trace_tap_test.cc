#include "daemon/session/trace_tap.h"

#include <gtest/gtest.h>

#include <thread>

namespace ultraep {
namespace {

// Reads a ring as its other process would.
class Reader {
 public:
  explicit Reader(const TraceTap& tap) {
    const uint64_t bytes = sizeof(TraceRing) + tap.capacity();
    EXPECT_EQ(CheckDescriptor(tap.file(), bytes), "");
    EXPECT_EQ(mapping_.Map(tap.file(), 0, bytes, true), "");
    EXPECT_EQ(ring().capacity.value.load(), tap.capacity());
  }
  TraceRing& ring() { return *reinterpret_cast<TraceRing*>(mapping_.base()); }
  bool any() { return ring().head.value.load(std::memory_order_acquire) != at_; }

  // The next record.
  TraceRecord record;
  std::vector<uint32_t> load;
  std::vector<Replica> replicas;
  void Next(uint32_t cells) {
    Get(at_, &record, sizeof record);
    load.resize(RoundUp(cells, 2));
    Get(at_ + sizeof record, load.data(), load.size() * 4);
    load.resize(cells);
    replicas.resize(record.replicas);
    Get(at_ + sizeof record + RoundUp(cells, 2) * 4, replicas.data(),
        replicas.size() * sizeof(Replica));
    at_ += record.bytes;
    ring().tail.value.store(at_, std::memory_order_release);
  }

 private:
  void Get(uint64_t at, void* to, uint64_t bytes) {
    AroundRing(
        ring().capacity.value.load(), at, bytes, [&](uint64_t from, uint64_t done, uint64_t count) {
          CopyFromShared(static_cast<unsigned char*>(to) + done, ring().data() + from, count);
        });
  }

  Mapping mapping_;
  uint64_t at_ = 0;
};

class TraceTapTest : public testing::Test {
 protected:
  static constexpr uint32_t kRanks = 3, kExperts = 3;  // an odd number of cells

  void Push(uint32_t i) {
    std::vector<uint32_t> load(kRanks * kExperts, i);
    const std::vector<Replica> replicas(i % 3, Replica{.expert = i, .tokens = i});
    TraceRecord record;
    record.sequence = i;
    tap_->Push(record, {load.data(), kRanks, kExperts}, &replicas);
  }
  void Expect(uint32_t i) {
    ASSERT_TRUE(reader_.any());
    reader_.Next(kRanks * kExperts);
    ASSERT_EQ(reader_.record.sequence, i);
    ASSERT_EQ(reader_.load, std::vector<uint32_t>(kRanks * kExperts, i));
    ASSERT_EQ(reader_.replicas, std::vector<Replica>(i % 3, Replica{.expert = i, .tokens = i}));
  }

  std::string wrong_;
  const std::shared_ptr<TraceTap> tap_ = TraceTap::Create({kRanks, kExperts, 1, 0}, 0, &wrong_);
  Reader reader_{*tap_};
};

TEST_F(TraceTapTest, StepsComeOutWholeAlsoAroundTheEndOfTheRing) {
  for (uint32_t i = 1; i < 200; ++i) {
    Push(i);
    Expect(i);
  }
  EXPECT_EQ(tap_->dropped(), 0u);
}

TEST_F(TraceTapTest, WhatDoesNotFitIsDroppedWholeAndCounted) {
  uint32_t pushed = 0;
  while (tap_->dropped() == 0) Push(++pushed);
  for (uint32_t i = 1; i < pushed; ++i) Expect(i);
  EXPECT_FALSE(reader_.any());
  Push(1000);  // there is room again
  Expect(1000);
  EXPECT_EQ(tap_->dropped(), 1u);
}

TEST_F(TraceTapTest, AReaderThatScribblesOnlyLosesItsOwnRecording) {
  for (const uint64_t tail : {uint64_t{1} << 63, ~uint64_t{0}, tap_->capacity() * 2}) {
    reader_.ring().tail.value.store(tail);
    reader_.ring().capacity.value.store(7);
    reader_.ring().head.value.store(tail);
    reader_.ring().dropped.value.store(tail);
    for (uint32_t i = 0; i < 100; ++i) Push(i);
  }
  EXPECT_GT(tap_->dropped(), 0u);
  EXPECT_LE(tap_->dropped(), 300u);
}

TEST_F(TraceTapTest, ASlowReaderOnAnotherThreadGetsTheStepsInOrder) {
  constexpr uint32_t kPushes = 5000;
  std::thread planner([this] {
    for (uint32_t i = 1; i <= kPushes; ++i) Push(i);
  });
  uint64_t last = 0, got = 0;
  while (got + tap_->dropped() < kPushes || reader_.any()) {
    if (!reader_.any()) continue;
    reader_.Next(kRanks * kExperts);
    ASSERT_GT(reader_.record.sequence, last);
    last = reader_.record.sequence;
    ASSERT_EQ(reader_.load, std::vector<uint32_t>(kRanks * kExperts, uint32_t(last)));
    ++got;
  }
  planner.join();
  EXPECT_EQ(got + tap_->dropped(), kPushes);
}

TEST(TraceTapSizeTest, TwoStepsOfAnyShapeFitIntoTheSmallestRing) {
  std::string wrong;
  const PlanShape shape{64, 256, 2, 0};
  const auto tap = TraceTap::Create(shape, 1, &wrong);
  ASSERT_NE(tap, nullptr) << wrong;
  EXPECT_GE(tap->capacity(), 2 * TraceRecordBytes(shape, 128));
}

}  // namespace
}  // namespace ultraep

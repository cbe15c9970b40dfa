#include "daemon/session/verdict_ring.h"

#include <gtest/gtest.h>

#include <thread>

namespace ultraep {
namespace {

// Every word of it follows from `i`.
StepVerdict Verdict(uint64_t i) {
  StepVerdict v;
  v.time_ns = v.generation = v.sequence = v.solve_ns = i;
  v.layer = v.microbatch = v.replicas = uint32_t(i);
  v.certificate = {i, i, i, i};
  return v;
}

bool Whole(const StepVerdict& v) {
  const uint64_t i = v.time_ns;
  return v.generation == i && v.sequence == i && v.solve_ns == i && v.layer == uint32_t(i) &&
         v.replicas == uint32_t(i) && v.certificate == Certificate{i, i, i, i};
}

TEST(VerdictRingTest, AReaderGetsEachVerdictOnceInOrder) {
  VerdictRing ring(4);
  uint64_t cursor = 0;
  std::vector<StepVerdict> got;
  for (uint64_t i = 1; i <= 3; ++i) ring.Push(Verdict(i));
  EXPECT_EQ(ring.Read(&cursor, 2, &got), 0u);
  EXPECT_EQ(ring.Read(&cursor, 9, &got), 0u);
  EXPECT_EQ(ring.Read(&cursor, 9, &got), 0u);
  ASSERT_EQ(got.size(), 3u);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(got[i].sequence, i + 1);
}

TEST(VerdictRingTest, AReaderThatWasOvertakenIsToldHowManyItMissed) {
  VerdictRing ring(4);
  for (uint64_t i = 0; i < 10; ++i) ring.Push(Verdict(i));
  uint64_t cursor = 1;
  std::vector<StepVerdict> got;
  EXPECT_EQ(ring.Read(&cursor, 9, &got), 5u);  // 1..5
  ASSERT_EQ(got.size(), 4u);
  EXPECT_EQ(got[0].sequence, 6u);
  EXPECT_EQ(cursor, 10u);
}

TEST(VerdictRingTest, TheLastOneIsThereOnceOneWasPushed) {
  VerdictRing ring(2);
  StepVerdict last;
  EXPECT_FALSE(ring.Last(&last));
  for (uint64_t i = 0; i < 5; ++i) ring.Push(Verdict(i));
  ASSERT_TRUE(ring.Last(&last));
  EXPECT_EQ(last.sequence, 4u);
}

TEST(VerdictRingTest, AVerdictIsReadWholeOrNotAtAllWhileItIsOverwritten) {
  VerdictRing ring(8);
  constexpr uint64_t kPushes = 20'000;
  std::thread writer([&] {
    for (uint64_t i = 1; i <= kPushes; ++i) ring.Push(Verdict(i));
  });
  uint64_t cursor = 0, seen = 0, missed = 0, previous = 0;
  while (cursor < kPushes) {
    std::vector<StepVerdict> got;
    missed += ring.Read(&cursor, 100, &got);
    for (const StepVerdict& v : got) {
      ASSERT_TRUE(Whole(v));
      ASSERT_GT(v.sequence, previous);
      previous = v.sequence;
    }
    seen += got.size();
    StepVerdict last;
    if (ring.Last(&last)) {
      ASSERT_TRUE(Whole(last));
    }
  }
  writer.join();
  EXPECT_EQ(seen + missed, kPushes);
}

}  // namespace
}  // namespace ultraep

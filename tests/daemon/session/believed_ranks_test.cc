#include "daemon/session/believed_ranks.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

constexpr uint64_t kSecond = 1'000'000'000, kBorn = 77 * kSecond;

TEST(BelievedRanksTest, WhatHonestRanksCountIsTakenOverExactly) {
  BelievedRanks ranks(kBorn);
  RankStatistics read;
  // A node of 72 ranks at full speed: 710 GB/s each, 64 threads each that wait all the time.
  for (uint64_t second = 1; second <= 100; ++second) {
    read.transfers.sent_bytes = second * 72 * 710'000'000'000;
    read.transfers.send_wait_ns = second * 72 * 64 * kSecond;
    read.verdict.sum_ns = second * 72 * kSecond;
    read.verdict.buckets[3] = second * 72 * 50'000;
    read.planned = second * 72 * 50'000;
    const RankStatistics shown = ranks.Believe(read, kBorn + second * kSecond);
    EXPECT_EQ(shown.transfers.sent_bytes, read.transfers.sent_bytes);
    EXPECT_EQ(shown.transfers.send_wait_ns, read.transfers.send_wait_ns);
    EXPECT_EQ(shown.verdict.sum_ns, read.verdict.sum_ns);
    EXPECT_EQ(shown.verdict.buckets[3], read.verdict.buckets[3]);
    EXPECT_EQ(shown.planned, read.planned);
  }
}

TEST(BelievedRanksTest, AForgedWordStandsStillAndTheOthersGoOn) {
  BelievedRanks ranks(kBorn);
  RankStatistics read;
  read.route.buckets[0] = 10;
  read.route.buckets[1] = 20;
  ranks.Believe(read, kBorn);
  for (const uint64_t forged :
       {uint64_t{3}, uint64_t{0}, 100 * BelievedRanks::kCountsPerSecond, UINT64_MAX}) {
    read.route.buckets[0] = forged;
    ++read.route.buckets[1];
    const RankStatistics shown = ranks.Believe(read, kBorn + kSecond);
    EXPECT_EQ(shown.route.buckets[0], 10u) << forged;
    EXPECT_EQ(shown.route.buckets[1], read.route.buckets[1]) << forged;
  }
  read.route.buckets[0] = 11;
  EXPECT_EQ(ranks.Believe(read, kBorn + kSecond).route.buckets[0], 11u) << "it fits again";
}

// However often somebody looks.
TEST(BelievedRanksTest, WhatCanBeForgedIsBoundedByTheGroupsAge) {
  BelievedRanks ranks(kBorn);
  RankStatistics read, shown;
  for (int i = 0; i < 1000; ++i) {
    read.failed += BelievedRanks::kCountsPerSecond;
    read.reduce.sum_ns += BelievedRanks::kAmountsPerSecond;
    shown = ranks.Believe(read, kBorn + 4 * kSecond);
  }
  EXPECT_EQ(shown.failed, 5 * BelievedRanks::kCountsPerSecond);
  EXPECT_EQ(shown.reduce.sum_ns, 5 * BelievedRanks::kAmountsPerSecond);
}

// A reading by another thread that was slower.
TEST(BelievedRanksTest, AnOlderReadingTakesNothingBack) {
  BelievedRanks ranks(kBorn);
  RankStatistics older, newer;
  older.declined = 4;
  newer.declined = 6;
  EXPECT_EQ(ranks.Believe(newer, kBorn).declined, 6u);
  EXPECT_EQ(ranks.Believe(older, kBorn).declined, 6u);
}

}  // namespace
}  // namespace ultraep

#include "protocol/latency.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

TEST(LatencyTest, ABucketTakesWhatIsAtItsBoundAndTheNextOneWhatIsAbove) {
  EXPECT_EQ(LatencyBucket(0), 0u);
  EXPECT_EQ(LatencyBucket(1000), 0u);
  EXPECT_EQ(LatencyBucket(1001), 1u);
  EXPECT_EQ(LatencyBucket(100'000'000), kLatencyBounds - 1);
  EXPECT_EQ(LatencyBucket(100'000'001), kLatencyBounds);
  EXPECT_EQ(LatencyBucket(UINT64_MAX), kLatencyBounds);
}

TEST(LatencyTest, SumAndCountAreExact) {
  LatencyHistogram h;
  for (const uint64_t ns : {500u, 1500u, 1500u, 200'000'000u}) CountLatencyAlone(&h, ns);
  CountLatencyShared(&h, 40'000);
  EXPECT_EQ(h.count(), 5u);
  EXPECT_EQ(h.sum_ns, 200'043'500u);
  EXPECT_DOUBLE_EQ(h.mean_ns(), 200'043'500.0 / 5);
}

// Ten in (1000, 2000], ten in (2000, 5000]: the median is the bound between them, a quarter lies in
// the middle of the first bucket, 0.9 at 2000 + 0.8 x 3000.
TEST(LatencyTest, QuantilesAreLinearWithinTheirBucket) {
  LatencyHistogram h;
  for (int i = 0; i < 10; ++i) CountLatencyAlone(&h, 1200);
  for (int i = 0; i < 10; ++i) CountLatencyAlone(&h, 3000);
  EXPECT_DOUBLE_EQ(h.Quantile(0.25), 1500);
  EXPECT_DOUBLE_EQ(h.Quantile(0.5), 2000);
  EXPECT_DOUBLE_EQ(h.Quantile(0.9), 4400);
  EXPECT_DOUBLE_EQ(h.Quantile(1), 5000);
}

TEST(LatencyTest, NothingCountedIsZeroAndAboveTheLastBoundIsTheLastBound) {
  LatencyHistogram h;
  EXPECT_EQ(h.Quantile(0.99), 0);
  EXPECT_EQ(h.mean_ns(), 0);
  CountLatencyAlone(&h, 3'000'000'000);
  EXPECT_EQ(h.Quantile(0.5), 100'000'000);
}

TEST(LatencyTest, ADifferenceOfTwoReadingsIsWhatCameBetween) {
  LatencyHistogram before;
  CountLatencyAlone(&before, 10);
  LatencyHistogram after = before;
  CountLatencyAlone(&after, 60'000);
  const LatencyHistogram since = after.Since(before);
  EXPECT_EQ(since.count(), 1u);
  EXPECT_EQ(since.sum_ns, 60'000u);
  before.Add(since);
  EXPECT_EQ(before.count(), after.count());
}

}  // namespace
}  // namespace ultraep

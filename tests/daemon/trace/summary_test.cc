// What a trace comes to, by hand.
#include "daemon/trace/summary.h"

#include <gtest/gtest.h>

#include "protocol/verdict_board.h"

namespace ultraep::trace {
namespace {

StepRow Row(int64_t tokens, int64_t before, int64_t after, int64_t bound) {
  StepRow row;
  row.verdict = int64_t(Verdict::kPlan);
  row.tokens = tokens;
  row.peak_before = before;
  row.peak = after;
  row.lower_bound = bound;
  return row;
}

TEST(SummaryTest, TheMeanWeighsStepsByTheirTokens) {
  Summarizer summarizer(4);
  summarizer.Add(Row(400, 300, 120, 100));  // imbalance 3 and 1.2
  summarizer.Add(Row(40, 10, 10, 10));      // 1
  const Summary sum = summarizer.Finish();
  EXPECT_DOUBLE_EQ(sum.before.mean, 310.0 * 4 / 440);
  EXPECT_DOUBLE_EQ(sum.after.mean, 130.0 * 4 / 440);
  EXPECT_DOUBLE_EQ(sum.floor.mean, 1);
  EXPECT_FLOAT_EQ(float(sum.before.worst), 3);
  EXPECT_EQ(sum.before.worst_step, 0u);
  EXPECT_EQ(sum.tokens, 440u);
  EXPECT_EQ(sum.peak_before, 310u);
  EXPECT_EQ(sum.avoided, 180u);
  EXPECT_DOUBLE_EQ(sum.gap, 0.1);
}

TEST(SummaryTest, PercentilesAreOfTheSteps) {
  Summarizer summarizer(1);
  // Peaks 0..100 of 100 tokens each: the value at a percentile is the percentile.
  for (int64_t i = 100; i >= 0; --i) {
    StepRow row = Row(100, 100, i, 0);
    row.solve_ns = 1000 * i;
    summarizer.Add(row);
  }
  const Summary sum = summarizer.Finish();
  EXPECT_FLOAT_EQ(float(sum.after.p50), 0.5F);
  EXPECT_FLOAT_EQ(float(sum.after.p99), 0.99F);
  EXPECT_FLOAT_EQ(float(sum.after.worst), 1);
  EXPECT_DOUBLE_EQ(sum.solve_p50_us, 50);
  EXPECT_DOUBLE_EQ(sum.solve_p99_us, 99);
}

TEST(SummaryTest, NothingIsNothing) {
  EXPECT_EQ(Summarizer(4).Finish().before.mean, 0);
  Summarizer summarizer(4);
  summarizer.Add(Row(0, 0, 0, 0));
  EXPECT_EQ(summarizer.Finish().after.mean, 1);
}

}  // namespace
}  // namespace ultraep::trace

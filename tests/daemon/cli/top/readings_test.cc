#include "daemon/cli/top/readings.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/daemon/cli/made_group.h"

namespace ultraep {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

Reading Made(uint64_t second, const std::vector<StatusGroup>& groups, double cpu_seconds = -1) {
  Reading r;
  r.time_ns = 1000 * kSecond + second * kSecond;
  r.daemon.pid = 42;
  r.daemon.uptime_ns = r.time_ns;
  r.cpu_seconds = cpu_seconds;
  r.groups = groups;
  return r;
}

TEST(ReadingsTest, TheFirstReadingHasNoRates) {
  Readings readings;
  const TopView view = readings.Add(Made(0, {MadeGroup("job", 100)}, 1));
  EXPECT_EQ(view.seconds, 0);
  EXPECT_TRUE(std::isnan(view.cpu_share));
  ASSERT_EQ(view.groups.size(), 1u);
  EXPECT_TRUE(std::isnan(view.groups[0].steps_per_second));
  EXPECT_TRUE(std::isnan(view.groups[0].before));
  EXPECT_EQ(view.groups[0].ready, 4u);
}

TEST(ReadingsTest, TheIntervalCountsNotTheLifeBefore) {
  Readings readings;
  StatusGroup g = MadeGroup("job", 100);
  for (int i = 0; i < 1000; ++i) CountLatencyAlone(&g.ranks.verdict, 15'000);
  g.ranks.stream = g.ranks.verdict;
  readings.Add(Made(0, {g}, 10));
  // Ten steps more, in two seconds: 400 tokens each, fullest rank 300 before and 120 after.
  g.counters.steps_planned += 10;
  g.counters.tokens_sum += 4000;
  g.counters.peak_before_sum += 3000;
  g.counters.peak_sum += 1200;
  g.counters.replicas += 50;
  g.counters.fallback_order += 2;
  for (int i = 0; i < 10; ++i) CountLatencyAlone(&g.planning.plan, 400'000);
  for (int i = 0; i < 10; ++i) CountLatencyAlone(&g.ranks.stream, 400'000);
  const TopView view = readings.Add(Made(2, {g}, 10.5));
  EXPECT_EQ(view.seconds, 2);
  EXPECT_DOUBLE_EQ(view.cpu_share, 0.25);
  const TopGroup& top = view.groups[0];
  EXPECT_DOUBLE_EQ(top.steps_per_second, 5);
  EXPECT_DOUBLE_EQ(top.before, 3);
  EXPECT_DOUBLE_EQ(top.after, 1.2);
  EXPECT_DOUBLE_EQ(top.replicas, 5);
  EXPECT_EQ(top.slots, 8u);
  EXPECT_EQ(top.fallbacks, 2u);
  EXPECT_DOUBLE_EQ(top.avoided_per_second, 900);
  // The bucket (300, 500] us, nearly its end.
  EXPECT_NEAR(top.plan_p99_us, 498, 0.01);
  EXPECT_NEAR(top.stream_p99_us, 498, 0.01);
  EXPECT_TRUE(std::isnan(top.verdict_p99_us));
}

TEST(ReadingsTest, WithoutStepsThereIsNoImbalance) {
  Readings readings;
  readings.Add(Made(0, {MadeGroup("job", 100)}));
  const TopView view = readings.Add(Made(1, {MadeGroup("job", 100)}));
  EXPECT_EQ(view.groups[0].steps_per_second, 0);
  EXPECT_TRUE(std::isnan(view.groups[0].before));
  EXPECT_TRUE(std::isnan(view.groups[0].plan_p99_us));
}

TEST(ReadingsTest, AGroupThatCameSinceHasCountedFromZero) {
  Readings readings;
  readings.Add(Made(0, {}));
  EXPECT_DOUBLE_EQ(readings.Add(Made(1, {MadeGroup("job", 7)})).groups[0].steps_per_second, 7);
}

TEST(ReadingsTest, TheSameNameOfAnotherJobIsAnotherGroup) {
  Readings readings;
  readings.Add(Made(0, {MadeGroup("job", 5)}));
  StatusGroup other = MadeGroup("job", 7);
  other.config.nonce[0] = 1;
  EXPECT_DOUBLE_EQ(readings.Add(Made(1, {other})).groups[0].steps_per_second, 7);
}

TEST(ReadingsTest, AGroupMadeAgainHasCountedFromZero) {
  Readings readings;
  readings.Add(Made(0, {MadeGroup("job", 100)}));
  const TopGroup group = readings.Add(Made(1, {MadeGroup("job", 9)})).groups[0];
  EXPECT_DOUBLE_EQ(group.steps_per_second, 9);
  EXPECT_DOUBLE_EQ(group.before, 1.5);
}

TEST(ReadingsTest, AfterARestartTheCountersBeginAgain) {
  Readings readings;
  readings.Add(Made(0, {MadeGroup("job", 100)}));
  Reading restarted = Made(1, {MadeGroup("job", 3)});
  restarted.daemon.pid = 43;
  restarted.daemon.uptime_ns = kSecond / 2;
  const TopView view = readings.Add(restarted);
  EXPECT_EQ(view.seconds, 0);
  EXPECT_TRUE(std::isnan(view.groups[0].steps_per_second));
}

TEST(ReadingsTest, TheLastMinuteBySecondsOldestFirst) {
  Readings readings;
  StatusGroup g = MadeGroup("job", 0);
  TopView view = readings.Add(Made(0, {g}));
  for (uint64_t second = 5; second <= 100; second += 5) {
    const bool late = second > 90;
    g.counters.steps_planned += 1;
    g.counters.tokens_sum += 400;
    g.counters.peak_before_sum += late ? 300 : 200;
    g.counters.peak_sum += 100;
    view = readings.Add(Made(second, {g}));
  }
  const std::vector<double>& past = view.groups[0].past_before;
  ASSERT_EQ(past.size(), 60u);
  EXPECT_DOUBLE_EQ(past[0], 2);
  EXPECT_DOUBLE_EQ(past[49], 2);
  EXPECT_DOUBLE_EQ(past[50], 3);
  EXPECT_DOUBLE_EQ(past[59], 3);
  EXPECT_DOUBLE_EQ(view.groups[0].past_after[30], 1);
}

TEST(ReadingsTest, BeforeTheFirstReadingThePastIsUnknown) {
  Readings readings;
  StatusGroup g = MadeGroup("job", 0);
  readings.Add(Made(0, {g}));
  const TopView view = readings.Add(Made(10, {MadeGroup("job", 10)}));
  EXPECT_TRUE(std::isnan(view.groups[0].past_before[49]));
  EXPECT_DOUBLE_EQ(view.groups[0].past_before[50], 1.5);
}

TEST(ReadingsTest, OrdersPutTheMostFirstAndTheUnknownLast) {
  std::vector<TopGroup> groups(3);
  groups[0].name = "b";
  groups[0].before = 1.2;
  groups[1].name = "a";
  groups[1].before = std::nan("");
  groups[2].name = "c";
  groups[2].before = 1.9;
  const auto names = [&](TopOrder order) {
    SortGroups(order, &groups);
    return groups[0].name + groups[1].name + groups[2].name;
  };
  EXPECT_EQ(names(TopOrder::kImbalance), "cba");
  EXPECT_EQ(names(TopOrder::kName), "abc");
}

TEST(ReadingsTest, FallbacksInARowAreOneEvent) {
  std::vector<TopEvent> events;
  Event fallback, joined;
  fallback.kind = uint16_t(EventKind::kFallback);
  SetText(fallback.group, "job");
  joined.kind = uint16_t(EventKind::kJoined);
  Event other = fallback;
  SetText(other.group, "other");
  std::vector<Event> more = {fallback, fallback, joined, fallback, other};
  more[1].sequence = 9;
  AddEvents(more, &events);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].times, 2u);
  EXPECT_EQ(events[0].event.sequence, 9u);
  AddEvents(std::vector<Event>(30, joined), &events);
  EXPECT_EQ(events.size(), 10u);
}

TEST(ReadingsTest, JsonHasNullForWhatIsNotKnown) {
  Readings readings;
  readings.Add(Made(0, {MadeGroup("job", 0)}));
  const Json json = TopJson(readings.Add(Made(1, {MadeGroup("job", 0)})));
  EXPECT_TRUE(json["groups"][0]["imbalance_before"].is_null());
  EXPECT_EQ(json["groups"][0]["steps_per_second"], 0.0);
  EXPECT_EQ(json["daemon"]["pid"], 42);
  EXPECT_EQ(json["interval_seconds"], 1.0);
}

}  // namespace
}  // namespace ultraep

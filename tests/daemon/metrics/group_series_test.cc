#include "daemon/metrics/group_series.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/daemon/metrics/scraped.h"
#include "tests/support/random.h"

namespace ultraep::metrics {
namespace {

using test::GroupCalled;
using test::Scraped;

Scraped Collected(GroupSeries* series, const NodeSnapshot& node) {
  Families families;
  series->Collect(node, &families);
  return Scraped(families.Take());
}

StatusGroup Planned(const std::string& name, uint64_t steps, uint32_t ranks = 4) {
  StatusGroup group = GroupCalled(name, ranks);
  group.counters.steps_planned = steps;
  group.counters.tokens_sum = steps * 100;
  return group;
}

TEST(GroupSeriesTest, GroupsOfOneNameAreOneSeries) {
  NodeSnapshot node;
  node.groups = {Planned("job", 3, 4), Planned("job", 5, 2)};
  node.closed = {{Planned("job", 7, 10), 70}};
  StatusGroup &a = node.groups[0], &b = node.groups[1];
  a.gate_state = uint32_t(GateState::kOpen);
  a.heartbeat_age_ns = 2'000'000'000;
  a.memory_bytes = 10;
  b.memory_bytes = 20;
  b.counters.last_planned_ns = 9'000'000'000;  // only this one has planned
  b.counters.last_peak_before = 60;
  b.counters.last_peak = 55;
  b.counters.last_lower_bound = 50;
  b.counters.last_tokens = 100;
  a.members[1] = b.members[0] = uint8_t(MemberState::kReady);
  GroupSeries series;
  const Scraped s = Collected(&series, node);
  EXPECT_EQ(s.at("ultraep_steps_total job plan none"), 3 + 5 + 7);
  EXPECT_EQ(s.at("ultraep_rank_tokens_mean_total job"), 300 / 4 + 500 / 2 + 70);
  EXPECT_EQ(s.at("ultraep_slots job"), 4 * 2 + 2 * 2);
  EXPECT_EQ(s.at("ultraep_group_memory_bytes job"), 30);
  EXPECT_EQ(s.at("ultraep_ranks job ready"), 2);
  EXPECT_EQ(s.at("ultraep_ranks job absent"), 4);
  EXPECT_EQ(s.at("ultraep_group_open job"), 0) << "open when all are";
  EXPECT_EQ(s.at("ultraep_heartbeat_age_seconds job"), 2) << "the oldest";
  EXPECT_EQ(s.at("ultraep_last_plan_timestamp_seconds job"), 9);
  EXPECT_EQ(s.at("ultraep_imbalance_ratio job before"), 1.2);
  EXPECT_EQ(s.at("ultraep_imbalance_ratio job after"), 1.1);
  EXPECT_NEAR(s.at("ultraep_optimality_gap_ratio job"), 0.1, 1e-12);
}

TEST(GroupSeriesTest, WithoutAPlanThereIsNoImbalanceYet) {
  NodeSnapshot node;
  node.groups = {GroupCalled("job")};
  GroupSeries series;
  const Scraped s = Collected(&series, node);
  EXPECT_FALSE(s.has("ultraep_imbalance_ratio job before"));
  EXPECT_FALSE(s.has("ultraep_last_plan_timestamp_seconds job"));
  EXPECT_EQ(s.at("ultraep_steps_total job plan none"), 0);
}

TEST(GroupSeriesTest, AClosedGroupKeepsItsCountersAndLosesItsGauges) {
  GroupSeries series;
  NodeSnapshot node;
  node.groups = {Planned("job", 5)};
  Collected(&series, node);
  node.closed = {{Planned("job", 6), 0}};
  node.groups.clear();
  const Scraped s = Collected(&series, node);
  EXPECT_EQ(s.at("ultraep_steps_total job plan none"), 6);
  EXPECT_FALSE(s.has("ultraep_slots job"));
}

TEST(GroupSeriesTest, AnEvictedNamesCountsDoNotFallUponOther) {
  GroupSeries series;
  NodeSnapshot node;
  for (int i = 0; i < 7; ++i) node.groups.push_back(Planned("job" + std::to_string(i), 1000));
  Collected(&series, node);
  node.closed = {{node.groups[0], 0}};
  node.groups[0] = Planned("new", 1);  // takes job0's place
  Scraped s = Collected(&series, node);
  EXPECT_EQ(s.at("ultraep_steps_total new plan none"), 1);
  EXPECT_FALSE(s.has("ultraep_steps_total job0 plan none"));
  node.groups.push_back(Planned("job0", 3));  // is back, and finds no place
  s = Collected(&series, node);
  EXPECT_EQ(s.at("ultraep_steps_total other plan none"), 3);
  node.closed[0] = {Planned("job0", 1000 + 4), 0};
  node.groups.pop_back();
  s = Collected(&series, node);
  EXPECT_EQ(s.at("ultraep_steps_total other plan none"), 4) << "what it did as other";
}

// Two words are read one after the other while the planner adds to both.
TEST(GroupSeriesTest, ADifferenceOfTwoCountersDoesNotGoDown) {
  GroupSeries series;
  NodeSnapshot node;
  node.groups = {GroupCalled("job")};
  GroupCounters& c = node.groups[0].counters;
  for (const auto& [before, after, avoided] :
       std::vector<std::array<uint64_t, 3>>{{100, 40, 60}, {100, 50, 60}, {130, 60, 70}}) {
    c.peak_before_sum = before;
    c.peak_sum = after;
    EXPECT_EQ(Collected(&series, node).at("ultraep_tokens_avoided_total job"), double(avoided));
  }
}

// Jobs come, plan, go and come back under few names, through the real NodeView; scrapes at any
// time. No counter ever goes down while it is there, and in the end the named ones are exact.
TEST(GroupSeriesTest, CountersNeverGoDownWhateverComesAndGoes) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    test::Random random(seed);
    NodeView view;
    GroupSeries series;
    std::vector<GroupSource> living;
    std::map<std::string, uint64_t> steps;  // of each name
    std::map<std::string, double> before;
    for (int turn = 0; turn < 400; ++turn) {
      const uint64_t what = random.Below(10);
      if (what == 0 && living.size() < 12) {
        GroupSource source;
        source.fixed =
            GroupCalled("job" + std::to_string(random.Below(80)), 1 + uint32_t(random.Below(4)));
        source.fixed.generations = 1;
        source.statistics = std::make_shared<StepStatistics>();
        source.believed = std::make_shared<BelievedRanks>(0);
        living.push_back(source);
        view.Publish({}, living);
      } else if (what == 1 && !living.empty()) {
        const auto gone = living.begin() + long(random.Below(living.size()));
        view.Close(*gone);
        living.erase(gone);
        view.Publish({}, living);
      } else if (what < 8 && !living.empty()) {
        const GroupSource& source = living[random.Below(living.size())];
        const std::vector<Replica> none;
        StepOutcome step;
        step.replicas = &none;
        step.verdict.time_ns = 1;
        step.verdict.certificate = {100, 30 + random.Below(30), 30, 25};
        source.statistics->Count(step);
        ++steps[GetText(source.fixed.config.name)];
      } else {
        const Scraped now = Collected(&series, view.Read());
        for (const auto& [key, value] : now.counters()) {
          const auto earlier = before.find(key);
          if (earlier != before.end()) {
            ASSERT_GE(value, earlier->second) << key << ", seed " << seed;
          }
        }
        before = now.counters();
        for (const std::string& name : series.labels().named()) {
          ASSERT_EQ(now.at("ultraep_steps_total " + name + " plan none"), double(steps[name]))
              << "seed " << seed;
        }
      }
    }
  }
}

}  // namespace
}  // namespace ultraep::metrics

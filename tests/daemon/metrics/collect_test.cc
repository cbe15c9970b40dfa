#include "daemon/metrics/collect.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "daemon/planner/solve_plan.h"
#include "tests/daemon/metrics/scraped.h"

namespace ultraep::metrics {
namespace {

using test::GroupCalled;
using test::Scraped;

// Plans `load` with the real planner and counts the step as the daemon does.
void PlanAndCount(const PlanShape& shape, const std::vector<uint32_t>& load, uint32_t layer,
                  StepStatistics* statistics) {
  PlanWorkspace workspace;
  Plan plan;
  const LoadView view{load.data(), shape.ranks, shape.experts};
  SolvePlan(shape, view, PlanOptions(), &workspace, &plan);
  StepOutcome step;
  step.verdict.time_ns = 1'500'000'000'250'000'000 + layer;
  step.verdict.layer = layer;
  step.verdict.replicas = uint32_t(plan.replicas.size());
  step.verdict.certificate = plan.certificate;
  step.verdict.solve_ns = 40'000;
  step.shape = shape;
  step.load = view;
  step.replicas = &plan.replicas;
  step.collect_ns = 900'000;
  step.plan_ns = 60'000;
  statistics->Count(step);
}

// Three ranks with two experts and one slot each; worked by hand.
//
// layer 0, sums over the source ranks: experts 30 0 | 3 0 | 3 0, so ranks get 30, 3, 3: total 36,
// mean 12, imbalance 30 / 12 = 2.5. Ranks 1 and 2 take 9 of expert 0 each: 12, 12, 12, imbalance 1.
// The bound is ceil(36 / 3) = 12.
//
// layer 1: experts 2 0 | 31 0 | 4 0, so 2, 31, 4: total 37, mean 37 / 3, imbalance 93 / 37. The
// bound is ceil(37 / 3) = 13; expert 2 keeps at most 13, and the 18 others fit into 11 + 9 of ranks
// 0 and 2, not into one of them: two replicas, peak 13, imbalance 39 / 37.
TEST(CollectTest, MetricsOfAHandWorkedMatrixAreWhatTheHandSays) {
  const PlanShape shape{3, 6, 1, 0};
  GroupSource source;
  source.fixed = GroupCalled("job", 3);
  source.fixed.config.experts = 6;
  source.fixed.config.slots = 1;
  source.fixed.config.layers = 2;
  source.statistics = std::make_shared<StepStatistics>();
  source.believed = std::make_shared<BelievedRanks>(0);
  source.statistics->KeepLayers(2, 3);
  PlanAndCount(shape,
               {10, 0, 1, 0, 1, 0,  //
                15, 0, 1, 0, 1, 0,  //
                5, 0, 1, 0, 1, 0},
               0, source.statistics.get());
  NodeView view;
  view.Publish({}, {source});
  Collector collector;
  Scraped first(collector.Collect(view.Read(true)));
  EXPECT_EQ(first.at("ultraep_imbalance_ratio job before"), 2.5);
  EXPECT_EQ(first.at("ultraep_imbalance_ratio job after"), 1);
  EXPECT_EQ(first.at("ultraep_rank_tokens_max job before"), 30);
  EXPECT_EQ(first.at("ultraep_rank_tokens_max job after"), 12);
  EXPECT_EQ(first.at("ultraep_rank_tokens_mean job"), 12);
  EXPECT_EQ(first.at("ultraep_tokens_avoided_total job"), 18);

  PlanAndCount(shape,
               {2, 0, 10, 0, 0, 0,  //
                0, 0, 20, 0, 0, 0,  //
                0, 0, 1, 0, 4, 0},
               1, source.statistics.get());
  Scraped second(collector.Collect(view.Read(true)));
  EXPECT_EQ(second.at("ultraep_imbalance_ratio job before"), 93.0 / 37);
  EXPECT_EQ(second.at("ultraep_imbalance_ratio job after"), 39.0 / 37);
  EXPECT_EQ(second.at("ultraep_rank_tokens_max job before"), 31);
  EXPECT_EQ(second.at("ultraep_rank_tokens_max job after"), 13);
  EXPECT_EQ(second.at("ultraep_rank_tokens_mean job"), 37.0 / 3);
  EXPECT_EQ(second.at("ultraep_optimality_gap_ratio job"), 0);
  EXPECT_EQ(second.at("ultraep_rank_tokens_max_total job before"), 30 + 31);
  EXPECT_EQ(second.at("ultraep_rank_tokens_max_total job after"), 12 + 13);
  EXPECT_EQ(second.at("ultraep_rank_tokens_mean_total job"), (36 + 37) / 3.0);
  EXPECT_EQ(second.at("ultraep_rank_tokens_bound_total job"), 12 + 13);
  EXPECT_EQ(second.at("ultraep_tokens_avoided_total job"), 18 + 18);
  EXPECT_EQ(second.at("ultraep_steps_total job plan none"), 2);
  EXPECT_EQ(second.at("ultraep_replicas job"), 2);
  EXPECT_EQ(second.at("ultraep_replicas_total job"), 4);
  EXPECT_EQ(second.at("ultraep_slots job"), 3);
  EXPECT_DOUBLE_EQ(second.at("ultraep_last_plan_timestamp_seconds job"), 1'500'000'000.25);
  EXPECT_EQ(second.at("ultraep_solve_seconds"), 2);
  EXPECT_EQ(second.at("ultraep_layer_imbalance_ratio job 0 before"), 2.5);
  EXPECT_EQ(second.at("ultraep_layer_imbalance_ratio job 0 after"), 1);
  EXPECT_EQ(second.at("ultraep_layer_imbalance_ratio job 1 before"), 93.0 / 37);
  EXPECT_EQ(second.at("ultraep_layer_imbalance_ratio job 1 after"), 39.0 / 37);
  double layer1 = 0;
  for (const std::string rank : {"0", "1", "2"}) {
    EXPECT_EQ(second.at("ultraep_layer_rank_tokens_total job 0 " + rank), 12);
    EXPECT_LE(second.at("ultraep_layer_rank_tokens_total job 1 " + rank), 13);
    layer1 += second.at("ultraep_layer_rank_tokens_total job 1 " + rank);
  }
  EXPECT_EQ(layer1, 37);
}

std::vector<std::string> Split(const std::string& text, char at) {
  std::istringstream stream(text);
  std::vector<std::string> parts;
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

NodeSnapshot Crowd(size_t groups) {
  NodeSnapshot node;
  for (size_t i = 0; i < groups; ++i) {
    node.groups.push_back(GroupCalled("job" + std::to_string(i)));
    node.groups.back().counters.steps_planned = 10;
    node.groups.back().counters.last_planned_ns = 1;
    node.layers.push_back({LayerStatistics{10, 2, 1, 4, {1, 1, 1, 1}}});
  }
  return node;
}

TEST(CollectTest, EveryNameOfNamesHIsThereWithItsLabelsAndNoOther) {
  Collector collector;
  const Scraped scraped(collector.Collect(Crowd(2)));
  ASSERT_EQ(scraped.families().size(), std::size(kAll));
  for (size_t i = 0; i < std::size(kAll); ++i) {
    const prometheus::MetricFamily& family = scraped.families()[i];
    EXPECT_EQ(family.name, kAll[i]->name);
    EXPECT_EQ(family.help, kAll[i]->help);
    // Label -> the values that names.h states, and those that are there.
    std::map<std::string, std::set<std::string>> stated, there;
    for (const std::string& label : Split(kAll[i]->labels, ',')) {
      const std::vector<std::string> parts = Split(label, '=');
      const std::vector<std::string> values = Split(parts.size() > 1 ? parts[1] : "", '|');
      stated[parts[0]] = {values.begin(), values.end()};
    }
    for (const prometheus::ClientMetric& series : family.metric) {
      EXPECT_EQ(series.label.size(), stated.size()) << family.name;
      for (const auto& label : series.label) there[label.name].insert(label.value);
    }
    for (const auto& [label, values] : stated) {
      EXPECT_EQ(there.count(label), 1u) << family.name << " " << label;
      if (!values.empty()) {
        EXPECT_EQ(there[label], values) << family.name << " " << label;
      }
    }
  }
}

TEST(CollectTest, ThereAreFewerThan600SeriesHoweverManyGroups) {
  Collector collector;
  NodeSnapshot crowd = Crowd(100);
  crowd.layers.clear();
  const Scraped scraped(collector.Collect(crowd));
  EXPECT_EQ(scraped.series_of("ultraep_slots"), GroupLabels::kNamed + 1);
  EXPECT_EQ(scraped.series_of("ultraep_layer_imbalance_ratio"), 0u);
  EXPECT_LT(scraped.series(), 600u);
  EXPECT_GT(scraped.series(), 400u) << "the test counts what is there";
}

TEST(CollectTest, BucketsAreCumulativeAndTimesAreSeconds) {
  NodeSnapshot node;
  node.groups = {GroupCalled("a"), GroupCalled("b")};
  for (const uint64_t ns : {500, 1000, 1001, 70'000}) {
    CountLatencyAlone(&node.groups[0].planning.solve, ns);
    CountLatencyAlone(&node.groups[1].ranks.route, ns);
  }
  CountLatencyAlone(&node.closed_sum.planning.solve, 200'000'000);  // above the last bound
  Collector collector;
  for (const auto& family : collector.Collect(node)) {
    if (family.name != "ultraep_solve_seconds") continue;
    ASSERT_EQ(family.metric.size(), 1u);
    const auto& h = family.metric[0].histogram;
    ASSERT_EQ(h.bucket.size(), kLatencyBounds);
    EXPECT_EQ(h.bucket[0].upper_bound, 1e-6);
    EXPECT_EQ(h.bucket[0].cumulative_count, 2u);
    EXPECT_EQ(h.bucket[1].cumulative_count, 3u);
    EXPECT_EQ(h.bucket[7].upper_bound, 7.5e-5);
    EXPECT_EQ(h.bucket[6].cumulative_count, 3u);
    EXPECT_EQ(h.bucket[7].cumulative_count, 4u);
    EXPECT_EQ(h.bucket.back().cumulative_count, 4u);
    EXPECT_EQ(h.bucket.back().upper_bound, 0.1);
    EXPECT_EQ(h.sample_count, 5u);
    EXPECT_DOUBLE_EQ(h.sample_sum, 200'072'501e-9);
    return;
  }
  FAIL() << "no ultraep_solve_seconds";
}

TEST(CollectTest, WhatTheDaemonSaysOfItself) {
  NodeSnapshot node;
  SetText(node.daemon.build, "1.2.3");
  node.daemon.connections = 7;
  node.daemon.max_connections = 9;
  node.daemon.lease_ns = 2'500'000'000;
  node.daemon.trace_dropped = 3;
  node.daemon.refused[uint32_t(RefusalKind::kDisagree)] = 4;
  node.daemon.cost_token_ps = 1500;
  Collector collector;
  Scraped(collector.Collect(node));
  const Scraped scraped(collector.Collect(node));
  EXPECT_EQ(scraped.at("ultraep_build_info 1.2.3 " + std::to_string(kLayoutVersion) + " none"), 1);
  EXPECT_EQ(scraped.at("ultraep_gpu_available"), 0);
  EXPECT_EQ(scraped.at("ultraep_connections"), 7);
  EXPECT_EQ(scraped.at("ultraep_connections_limit"), 9);
  EXPECT_EQ(scraped.at("ultraep_lease_seconds"), 2.5);
  EXPECT_EQ(scraped.at("ultraep_dropped_total trace"), 3);
  EXPECT_EQ(scraped.at("ultraep_refusals_total disagree"), 4);
  EXPECT_DOUBLE_EQ(scraped.at("ultraep_token_cost_seconds"), 1.5e-9);
  EXPECT_EQ(scraped.at("ultraep_groups"), 0);
  EXPECT_EQ(scraped.at("ultraep_scrapes_total"), 2);
  EXPECT_GT(scraped.at("process_resident_memory_bytes"), 1e6);
  EXPECT_GT(scraped.at("process_start_time_seconds"), 1.7e9);
  EXPECT_GT(scraped.at("process_open_fds"), 2);
  EXPECT_GE(scraped.at("process_max_fds"), scraped.at("process_open_fds"));
}

TEST(CollectTest, GpusThatTheDaemonCanUseAndWhatGroupsTakeOfThem) {
  NodeSnapshot node;
  node.daemon.cuda = CudaUse::kOpen;
  node.daemon.cuda_driver = 12080;
  node.groups = {GroupCalled("host", 4), GroupCalled("device", 4)};
  node.groups[1].device_bytes = 2 << 20;
  Collector collector;
  const Scraped scraped(collector.Collect(node));
  EXPECT_EQ(scraped.at("ultraep_gpu_available"), 1);
  EXPECT_EQ(scraped.at("ultraep_build_info  " + std::to_string(kLayoutVersion) + " 12.8"), 1);
  EXPECT_EQ(scraped.at("ultraep_group_gpu_memory_bytes host"), 0);
  EXPECT_EQ(scraped.at("ultraep_group_gpu_memory_bytes device"), 8 << 20);
  node.daemon.cuda = CudaUse::kMissing;
  EXPECT_EQ(Scraped(collector.Collect(node)).at("ultraep_gpu_available"), 0);
}

}  // namespace
}  // namespace ultraep::metrics

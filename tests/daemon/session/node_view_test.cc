#include "daemon/session/node_view.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace ultraep {
namespace {

// A group that has planned `steps` steps.
GroupSource Source(const std::string& name, uint64_t steps) {
  GroupSource source;
  SetText(source.fixed.config.name, name);
  source.fixed.generations = 1;
  source.statistics = std::make_shared<StepStatistics>();
  source.believed = std::make_shared<BelievedRanks>(0);
  const std::vector<Replica> none;
  StepOutcome step;
  step.replicas = &none;
  step.verdict.time_ns = 1;
  step.verdict.certificate = {100, 80, 50, 50};
  step.plan_ns = 5000;
  for (uint64_t i = 0; i < steps; ++i) source.statistics->Count(step);
  return source;
}

TEST(NodeViewTest, AClosedGroupIsCountedOnceAlsoBeforeTheNextPublish) {
  NodeView view;
  const GroupSource a = Source("a", 3), b = Source("b", 5);
  view.Publish({}, {a, b});
  EXPECT_EQ(view.Read().groups.size(), 2u);
  EXPECT_EQ(view.Read().closed_sum.counters.steps_planned, 0u);
  view.Close(a);
  const NodeSnapshot after = view.Read();
  ASSERT_EQ(after.groups.size(), 1u);
  EXPECT_EQ(after.groups[0].counters.steps_planned, 5u);
  EXPECT_EQ(after.closed_sum.counters.steps_planned, 3u);
  EXPECT_EQ(after.closed_sum.planning.plan.count(), 3u);
}

TEST(NodeViewTest, WhatRanksOfClosedGroupsHaveCountedIsKept) {
  NodeView view;
  for (uint64_t planned : {3, 4}) {
    GroupSource source = Source("job", 1);
    source.ranks_before.planned = planned;
    source.ranks_before.transfers.sent_bytes = 100 * planned;
    CountLatencyAlone(&source.ranks_before.route, 20'000);
    view.Close(source);
  }
  const NodeSnapshot node = view.Read();
  ASSERT_EQ(node.closed.size(), 1u);
  for (const RankStatistics& ranks : {node.closed[0].sums.ranks, node.closed_sum.ranks}) {
    EXPECT_EQ(ranks.planned, 7u);
    EXPECT_EQ(ranks.transfers.sent_bytes, 700u);
    EXPECT_EQ(ranks.route.count(), 2u);
  }
}

// Buckets whose sum overflows would fall from one to the next, for all users of the node.
TEST(NodeViewTest, WhatARankForgesDoesNotReachTheNodesSums) {
  NodeView view;
  GroupSource honest = Source("honest", 1), forged = Source("forged", 1);
  honest.ranks_before.verdict.buckets[5] = 10;
  forged.ranks_before.verdict.buckets[5] = 20;
  view.Publish({}, {honest, forged});
  view.Read();
  for (uint64_t& bucket : forged.ranks_before.verdict.buckets) bucket = UINT64_MAX / 2;
  view.Publish({}, {honest, forged});
  EXPECT_EQ(view.Read().groups[1].ranks.verdict.count(), 20u);
  forged.ranks_before.verdict = {};
  view.Close(forged);
  EXPECT_EQ(view.Read().closed_sum.ranks.verdict.count(), 20u);
  EXPECT_EQ(view.Read().groups[0].ranks.verdict.count(), 10u);
}

TEST(NodeViewTest, ClosedGroupsOfOneNameAreSummed) {
  NodeView view;
  for (uint64_t steps : {3, 4}) view.Close(Source("job", steps));
  view.Close(Source("other", 1));
  const NodeSnapshot node = view.Read();
  ASSERT_EQ(node.closed.size(), 2u);
  EXPECT_EQ(GetText(node.closed[0].sums.config.name), "job");
  EXPECT_EQ(node.closed[0].sums.counters.steps_planned, 7u);
  EXPECT_EQ(node.closed[0].sums.generations, 2u);
  EXPECT_EQ(node.closed_sum.counters.steps_planned, 8u);
}

TEST(NodeViewTest, OldNamesAreForgottenButNotTheirSum) {
  NodeView view;
  constexpr size_t kMore = NodeView::kClosedNames + 10;
  for (size_t i = 0; i < kMore; ++i) {
    view.Close(Source("job" + std::to_string(i), 1));
    view.Publish({}, {});
  }
  const NodeSnapshot node = view.Read();
  EXPECT_EQ(node.closed.size(), NodeView::kClosedNames);
  EXPECT_EQ(GetText(node.closed.back().sums.config.name), "job" + std::to_string(kMore - 1));
  EXPECT_EQ(node.closed_sum.counters.steps_planned, kMore);
}

// 100 tokens a step; the mean over ranks of different groups cannot be had from their sum.
TEST(NodeViewTest, ANameIsKeptOrForgottenWholeWhateverSizesItsGroupsHad) {
  NodeView view;
  for (const uint32_t ranks : {2, 4, 2}) {
    GroupSource source = Source("job", ranks);
    source.fixed.config.ranks = ranks;
    view.Close(source);
  }
  const NodeSnapshot node = view.Read();
  ASSERT_EQ(node.closed.size(), 1u);
  EXPECT_EQ(node.closed[0].sums.counters.steps_planned, 8u);
  EXPECT_EQ(node.closed[0].mean_tokens, 2 * 100 / 2 + 4 * 100 / 4 + 2 * 100 / 2);
}

TEST(NodeViewTest, WhatANameHasCountedIsKeptWhileItLives) {
  NodeView view;
  view.Close(Source("long", 3));
  const std::vector<GroupSource> living = {Source("long", 2)};
  view.Publish({}, living);
  for (size_t i = 0; i < 2 * NodeView::kClosedNames; ++i) {
    view.Close(Source("job" + std::to_string(i), 1));
    view.Publish({}, living);
  }
  const NodeSnapshot node = view.Read();
  EXPECT_EQ(node.closed.size(), NodeView::kClosedNames + 1) << "it takes nobody's place";
  EXPECT_EQ(GetText(node.closed[0].sums.config.name), "long");
  EXPECT_EQ(node.closed[0].sums.counters.steps_planned, 3u);
}

// Also when more names live than closed ones are kept: what was closed last is not forgotten first.
TEST(NodeViewTest, ManyLivingNamesTakeNoClosedOnesPlace) {
  NodeView view;
  std::vector<GroupSource> living;
  for (size_t i = 0; i < 2 * NodeView::kClosedNames; ++i) {
    const std::string name = "job" + std::to_string(i);
    view.Close(Source(name, 1));
    living.push_back(Source(name, 1));
    view.Publish({}, living);
  }
  view.Close(living.back());
  living.pop_back();
  view.Publish({}, living);
  const NodeSnapshot node = view.Read();
  EXPECT_EQ(node.closed.size(), 2 * NodeView::kClosedNames);
  EXPECT_EQ(node.closed.back().sums.counters.steps_planned, 2u);
}

// Statistics whose reader stops within: their memory may not be read until somebody allows it.
class StoppedReader {
 public:
  StoppedReader() {
    bytes_ = (sizeof(StepStatistics) + 4095) / 4096 * 4096;
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(memory_, MAP_FAILED);
    statistics = std::shared_ptr<StepStatistics>(new (memory_) StepStatistics,
                                                 [](StepStatistics* s) { s->~StepStatistics(); });
    stopped_ = false;
    go_on_ = false;
    struct sigaction wait = {};
    wait.sa_handler = [](int) {
      stopped_ = true;
      while (!go_on_) usleep(1000);
    };
    EXPECT_EQ(sigaction(SIGSEGV, &wait, &before_), 0);
    EXPECT_EQ(mprotect(memory_, bytes_, PROT_NONE), 0);
  }
  ~StoppedReader() {
    sigaction(SIGSEGV, &before_, nullptr);
    statistics.reset();
    munmap(memory_, bytes_);
  }
  void WaitUntilItStops() {
    while (!stopped_) usleep(1000);
  }
  void GoOn() {
    EXPECT_EQ(mprotect(memory_, bytes_, PROT_READ | PROT_WRITE), 0);
    go_on_ = true;
  }

  std::shared_ptr<StepStatistics> statistics;

 private:
  static inline std::atomic<bool> stopped_, go_on_;
  size_t bytes_ = 0;
  void* memory_ = nullptr;
  struct sigaction before_ = {};
};

// A scrape may be long, or its thread may not be scheduled: session and ranks must not notice.
TEST(NodeViewTest, ThePublisherWaitsForNoReader) {
  StoppedReader stopped;
  NodeView view;
  GroupSource source = Source("a", 0);
  source.statistics = stopped.statistics;
  view.Publish({}, {source});
  std::jthread reader([&] { view.Read(); });
  stopped.WaitUntilItStops();
  const auto published = std::async(std::launch::async, [&] { view.Publish({}, {}); });
  EXPECT_EQ(published.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  stopped.GoOn();
  reader.join();
}

TEST(NodeViewTest, LayersAreReadWhenTheyAreAskedFor) {
  NodeView view;
  GroupSource source = Source("a", 0);
  source.statistics->KeepLayers(3, 2);
  view.Publish({}, {source});
  EXPECT_TRUE(view.Read().layers.empty());
  const NodeSnapshot node = view.Read(true);
  ASSERT_EQ(node.layers.size(), 1u);
  EXPECT_EQ(node.layers[0].size(), 3u);
}

TEST(NodeViewTest, TheLastFallbacksOutliveManyPlans) {
  NodeView view;
  GroupSource source = Source("a", 0);
  StepOutcome fallback;
  fallback.verdict.time_ns = 5;
  fallback.verdict.sequence = 42;
  fallback.verdict.kind = EventKind::kFallback;
  fallback.verdict.reason = FallbackReason::kBadRow;
  source.statistics->Count(fallback);
  const std::vector<Replica> none;
  StepOutcome plan;
  plan.replicas = &none;
  plan.verdict.time_ns = 6;
  for (int i = 0; i < 5000; ++i) source.statistics->Count(plan);
  view.Publish({}, {source});
  EXPECT_EQ(view.LastVerdicts(false, 10).size(), 10u);
  const std::vector<Event> fallbacks = view.LastVerdicts(true, 10);
  ASSERT_EQ(fallbacks.size(), 1u);
  EXPECT_EQ(fallbacks[0].sequence, 42u);
  EXPECT_EQ(fallbacks[0].reason, uint16_t(FallbackReason::kBadRow));
  EXPECT_EQ(GetText(fallbacks[0].group), "a");
}

}  // namespace
}  // namespace ultraep

#include "kernels/route_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/count_load.h"

namespace ultraep {
namespace {

// A step: every source's ids, the load matrix they make, and a plan for it.
struct Step {
  RecordedPlan plan;
  std::vector<std::vector<int32_t>> ids;  // [source]
  std::vector<uint32_t> load;             // [source][expert]

  const uint32_t* row(uint32_t source) const {
    return &load[uint64_t{source} * plan.shape.experts];
  }
  std::vector<int32_t> Route(uint32_t source) const {
    std::vector<int32_t> physical(ids[source].size(), -7);
    const TokenRouter router(plan, source, row(source));
    EXPECT_EQ(router.Route(ids[source].data(), ids[source].size(), 1, physical.data()), "");
    return physical;
  }
};

// Random ids with a few hot experts, -1 among them; random legal replicas with random quotas.
Step RandomStep(PlanShape shape, uint32_t max_tokens, uint32_t seed) {
  std::mt19937 random(seed);
  Step step;
  step.plan.shape = shape;
  step.ids.resize(shape.ranks);
  step.load.assign(uint64_t{shape.ranks} * shape.experts, 0);
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    const uint32_t tokens = random() % (max_tokens + 1);
    for (uint32_t t = 0; t < tokens; ++t) {
      const uint32_t hot = random() % 2 ? random() % shape.experts : random() % 3;
      step.ids[r].push_back(random() % 16 ? static_cast<int32_t>(hot % shape.experts) : -1);
    }
    EXPECT_FALSE(CountLoad(step.ids[r].data(), step.ids[r].size(), shape.experts,
                           &step.load[uint64_t{r} * shape.experts]));
  }
  const LoadView view{step.load.data(), shape.ranks, shape.experts};
  std::vector<uint64_t> left(shape.experts);
  for (uint32_t e = 0; e < shape.experts; ++e) left[e] = ExpertTokens(view, e);
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    std::vector<uint32_t> here;
    for (uint16_t slot = 0; slot < shape.slots; ++slot) {
      const uint32_t e = random() % 2 ? random() % shape.experts : random() % 3 % shape.experts;
      if (shape.home(e) == r || left[e] == 0 || std::count(here.begin(), here.end(), e)) continue;
      // Sometimes the main copy keeps nothing.
      const uint64_t quota = random() % 4 ? 1 + random() % left[e] : left[e];
      step.plan.replicas.push_back({e, static_cast<uint16_t>(r), slot, -1, 0, quota});
      left[e] -= quota;
      here.push_back(e);
    }
  }
  std::shuffle(step.plan.replicas.begin(), step.plan.replicas.end(), random);
  step.plan.Close(view);
  PlanChecker checker;
  const PlanFault fault =
      checker.Check(shape, step.plan.replicas, [&](uint32_t e) { return ExpertTokens(view, e); });
  EXPECT_FALSE(fault) << fault.text();
  return step;
}

// The rule without cursors: every token by its ordinal.
std::vector<int32_t> RouteByOrdinal(const Step& step, uint32_t source) {
  const PlanShape& shape = step.plan.shape;
  const PhysicalIds numbering{shape.experts_per_rank(), shape.slots};
  std::vector<uint64_t> ordinal(shape.experts, 0);
  std::vector<int32_t> physical;
  for (const int32_t id : step.ids[source]) {
    if (id < 0) {
      physical.push_back(-1);
      continue;
    }
    const uint32_t expert = id;
    std::vector<SplitInstance> instances = {{shape.home(expert), numbering.main(expert)}};
    uint64_t quota = 0, before = 0;
    std::vector<uint32_t> column(shape.ranks);
    for (uint32_t r = 0; r < shape.ranks; ++r) {
      column[r] = step.row(r)[expert];
      quota += column[r];
      if (r < source) before += column[r];
    }
    for (const Replica& r : step.plan.replicas) {
      if (r.expert != expert) continue;
      instances.push_back({r.rank, numbering.replica(r.rank, r.slot), r.tokens});
      quota -= r.tokens;
    }
    instances[0].quota = quota;
    const uint64_t pool = BuildSplit(column.data(), instances.data(), instances.size());
    const SourceSplit split =
        SplitForSource(column.data(), source, before, instances.data(), instances.size(), pool);
    physical.push_back(instances[InstanceOf(split, ordinal[expert]++, instances.data())].physical);
  }
  return physical;
}

TEST(TokenRouter, TheWorkedExampleOfTheSplitIsRouted) {
  Step step;
  step.plan.shape = {2, 2, 1, 0};
  step.load = {6, 0, 2, 0};
  step.ids = {{0, 0, 0, 0, 0, 0}, {0, 0}};
  step.plan.replicas = {{0, 1, 0, -1, 0, 4}};
  step.plan.Close({step.load.data(), 2, 2});
  // Physical ids: rank 0 has main 0 and slot 1, rank 1 has main 2 and slot 3.
  const std::vector<int32_t> first = step.Route(0);
  EXPECT_EQ(std::count(first.begin(), first.end(), 0), 4);
  EXPECT_EQ(std::count(first.begin(), first.end(), 3), 2);
  EXPECT_EQ(step.Route(1), (std::vector<int32_t>{3, 3}));
}

TEST(TokenRouter, BothMarginsAreExactAndEveryTokenFollowsTheRule) {
  const std::vector<PlanShape> shapes = {{1, 4, 2, 0}, {2, 2, 1, 0}, {4, 8, 2, 0}, {8, 64, 3, 0}};
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const PlanShape shape = shapes[seed % shapes.size()];
    const Step step = RandomStep(shape, seed % 3 ? 400 : 5, seed);
    const PhysicalIds numbering{shape.experts_per_rank(), shape.slots};
    std::vector<uint64_t> received(shape.ranks * numbering.per_rank(), 0);
    for (uint32_t source = 0; source < shape.ranks; ++source) {
      const std::vector<int32_t> physical = step.Route(source);
      ASSERT_EQ(physical, RouteByOrdinal(step, source)) << "seed " << seed;
      for (const int32_t p : physical) {
        if (p >= 0) ++received[p];
      }
    }
    for (const Replica& r : step.plan.replicas)
      EXPECT_EQ(received[numbering.replica(r.rank, r.slot)], r.tokens) << "seed " << seed;
    for (uint32_t e = 0; e < shape.experts; ++e) {
      uint64_t quota = ExpertTokens({step.load.data(), shape.ranks, shape.experts}, e);
      for (const Replica& r : step.plan.replicas) quota -= r.expert == e ? r.tokens : 0;
      EXPECT_EQ(received[numbering.main(e)], quota) << "seed " << seed;
    }
  }
}

TEST(TokenRouter, WithoutReplicasAllTokensGoToMainCopies) {
  Step step = RandomStep({4, 8, 2, 0}, 50, 3);
  step.plan.replicas.clear();
  step.plan.column_experts.clear();
  step.plan.columns.clear();
  const PhysicalIds numbering{2, 2};
  for (uint32_t source = 0; source < 4; ++source) {
    const std::vector<int32_t> physical = step.Route(source);
    for (size_t i = 0; i < physical.size(); ++i) {
      const int32_t id = step.ids[source][i];
      EXPECT_EQ(physical[i], id < 0 ? -1 : static_cast<int32_t>(numbering.main(id)));
    }
  }
}

TEST(TokenRouter, MayWriteOverItsInput) {
  const Step step = RandomStep({4, 8, 2, 0}, 300, 5);
  std::vector<int32_t> ids = step.ids[2];
  const TokenRouter router(step.plan, 2, step.row(2));
  EXPECT_EQ(router.Route(ids.data(), ids.size(), 1, ids.data()), "");
  EXPECT_EQ(ids, step.Route(2));
}

TEST(TokenRouter, TopKOnlyShapesTheIds) {
  Step step = RandomStep({4, 8, 2, 0}, 300, 6);
  std::vector<int32_t>& ids = step.ids[1];
  const std::vector<int32_t> padding(3 - ids.size() % 3, -1);
  ids.insert(ids.end(), padding.begin(), padding.end());
  std::vector<int32_t> physical(ids.size());
  const TokenRouter router(step.plan, 1, step.row(1));
  EXPECT_EQ(router.Route(ids.data(), ids.size() / 3, 3, physical.data()), "");
  EXPECT_EQ(physical, step.Route(1));
}

TEST(TokenRouter, RefusesIdsThatDoNotMakeTheSubmittedRowAndWritesNothing) {
  Step step = RandomStep({4, 8, 2, 0}, 300, 7);
  const TokenRouter router(step.plan, 1, step.row(1));
  std::vector<int32_t> ids = step.ids[1];
  ids.push_back(2);
  std::vector<int32_t> physical(ids.size(), -7);
  const uint32_t submitted = step.row(1)[2];
  EXPECT_EQ(router.Route(ids.data(), ids.size(), 1, physical.data()),
            "ids name expert 2 " + std::to_string(submitted + 1) +
                " times, the submitted row says " + std::to_string(submitted));
  EXPECT_EQ(physical, std::vector<int32_t>(ids.size(), -7));

  ids.back() = 8;
  EXPECT_EQ(router.Route(ids.data(), ids.size(), 1, physical.data()),
            "ids[" + std::to_string(ids.size() - 1) + "] is 8, must be -1 or 0..7");
  EXPECT_EQ(physical, std::vector<int32_t>(ids.size(), -7));

  EXPECT_EQ(router.Route(nullptr, UINT64_MAX / 2, 3, nullptr),
            "tokens x top_k is 9223372036854775807 x 3, must be below 2^64");
}

TEST(TokenRouter, ARouterCanBeResetToAnotherPlanAndShape) {
  TokenRouter router;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    const PlanShape shape = seed % 2 ? PlanShape{4, 8, 2, 0} : PlanShape{8, 16, 1, 0};
    const Step step = RandomStep(shape, 200, 100 + seed);
    router.Reset(step.plan, 3, step.row(3));
    std::vector<int32_t> physical(step.ids[3].size());
    EXPECT_EQ(router.Route(step.ids[3].data(), physical.size(), 1, physical.data()), "");
    EXPECT_EQ(physical, step.Route(3));
  }
}

TEST(TokenRouter, OneRouterServesSeveralThreads) {
  const Step step = RandomStep({4, 8, 2, 0}, 2000, 9);
  const TokenRouter router(step.plan, 0, step.row(0));
  const std::vector<int32_t> expected = step.Route(0);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      std::vector<int32_t> physical(step.ids[0].size());
      for (int round = 0; round < 20; ++round) {
        EXPECT_EQ(router.Route(step.ids[0].data(), physical.size(), 1, physical.data()), "");
        EXPECT_EQ(physical, expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace ultraep

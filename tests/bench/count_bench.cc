// `ultraep-bench count`: what being seen costs. The planner counts every step after its ranks have
// their verdict; a rank counts its own. Per step of the workload's shape: counters and latencies,
// the same with numbers per layer, the same while the step is recorded.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <vector>

#include "absl/strings/str_format.h"
#include "daemon/planner/solve_plan.h"
#include "daemon/session/statistics.h"
#include "nlohmann/json.hpp"
#include "protocol/rank_statistics.h"
#include "protocol/transport/waiting.h"
#include "tests/bench/bench.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Row {
  const char* what;
  std::vector<double> ns;  // of one call, one value per repeat

  double median() {
    std::sort(ns.begin(), ns.end());
    return ns[ns.size() / 2];
  }
};

template <class Call>
Row Measure(const char* what, uint32_t repeats, uint32_t calls, Call call) {
  Row row{what, {}};
  for (uint32_t i = 0; i < calls; ++i) call();  // caches
  for (uint32_t r = 0; r < repeats; ++r) {
    const uint64_t start = NowNs();
    for (uint32_t i = 0; i < calls; ++i) call();
    row.ns.push_back(double(NowNs() - start) / calls);
  }
  return row;
}

// A planned step of the workload.
struct Step {
  explicit Step(const Workload& workload) : load(workload.Draw(0)) {
    PlanOptions options;
    options.epsilon_ppm = workload.epsilon_ppm;
    PlanWorkspace workspace;
    SolvePlan(workload.shape, load.view(), options, &workspace, &plan);
    outcome.shape = workload.shape;
    outcome.load = load.view();
    outcome.replicas = &plan.replicas;
    outcome.verdict.certificate = plan.certificate;
    outcome.verdict.solve_ns = 15'000;
    outcome.plan_ns = 20'000;
    outcome.collect_ns = 300'000;
  }

  test::LoadMatrix load;
  Plan plan;
  StepOutcome outcome;
};

std::vector<Row> MeasureAll(const Workload& workload) {
  constexpr uint32_t kCalls = 1000;
  std::vector<Row> rows;
  RankStatistics rank;
  rows.push_back(Measure("one counter, one writer", workload.repeats, kCalls,
                         [&] { CountAlone(&rank.planned, 1); }));
  rows.push_back(Measure("one counter, any thread", workload.repeats, kCalls,
                         [&] { CountShared(&rank.planned, 1); }));
  rows.push_back(Measure("one latency, one writer", workload.repeats, kCalls,
                         [&] { CountLatencyAlone(&rank.verdict, 80'000); }));
  rows.push_back(Measure("one latency, any thread", workload.repeats, kCalls,
                         [&] { CountLatencyShared(&rank.verdict, 80'000); }));
  const Step step(workload);
  const auto plain = std::make_unique<StepStatistics>();
  rows.push_back(
      Measure("a step, planner", workload.repeats, kCalls, [&] { plain->Count(step.outcome); }));
  const auto layers = std::make_unique<StepStatistics>();
  layers->KeepLayers(1, workload.shape.ranks);
  rows.push_back(Measure("with numbers per layer", workload.repeats, kCalls,
                         [&] { layers->Count(step.outcome); }));
  std::string wrong;
  const auto tap = TraceTap::Create(workload.shape, kTraceRingDefault, &wrong);
  Mapping mapping;
  if (tap) wrong = mapping.Map(tap->file(), 0, sizeof(TraceRing) + tap->capacity(), true);
  if (!wrong.empty()) {
    std::fprintf(stderr, "ultraep-bench: not recorded: %s\n", wrong.c_str());
    return rows;
  }
  auto& ring = *reinterpret_cast<TraceRing*>(mapping.base());
  plain->Record(tap);
  rows.push_back(Measure("while it is recorded", workload.repeats, kCalls, [&] {
    ring.tail.value.store(ring.head.value.load());  // a reader that is never behind
    plain->Count(step.outcome);
  }));
  return rows;
}

}  // namespace

int RunCountBench(const Workload& workload, bool json) {
  std::vector<Row> rows = MeasureAll(workload);
  if (json) {
    Json out = {{"ranks", workload.shape.ranks},
                {"experts", workload.shape.experts},
                {"rows", Json::array()}};
    for (Row& row : rows) out["rows"].push_back({{"what", row.what}, {"ns", row.median()}});
    std::printf("%s\n", out.dump().c_str());
    return 0;
  }
  std::printf("%u ranks, %u experts; medians of %u\n\n%-26s %10s\n", workload.shape.ranks,
              workload.shape.experts, workload.repeats, "counting", "ns");
  for (Row& row : rows) std::printf("%-26s %10.1f\n", row.what, row.median());
  return 0;
}

}  // namespace ultraep::bench

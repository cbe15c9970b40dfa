// `ultraep-bench plan`: quality and time of our planner and of every baseline, each on the same
// loads in the same run.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_format.h"
#include "daemon/planner/baselines/baseline.h"
#include "daemon/planner/baselines/placement.h"
#include "daemon/planner/solve_plan.h"
#include "nlohmann/json.hpp"
#include "tests/bench/bench.h"

namespace ultraep::bench {
namespace {

using planner::Baseline;
using planner::Instance;
using Json = nlohmann::ordered_json;

// Of one planner, summed over the loads.
struct Row {
  std::string planner;
  double after = 0, worst = 0, replicas = 0, most_of_expert = 0, transfer = 0, direct = 0, gap = 0;
  std::vector<double> solve_us;
};

// Adds what one placement comes to. `bound` is the same for all planners: the best one proven.
void Add(const PlanShape& shape, const std::vector<Instance>& instances, uint64_t total,
         uint64_t bound, Row* row) {
  const planner::PlacementFigures figures = planner::FiguresOf(shape, instances);
  const double after = Imbalance(figures.peak, total, shape.ranks);
  row->after += after;
  row->worst = std::max(row->worst, after);
  row->replicas += figures.replicas;
  row->most_of_expert += figures.most_of_expert;
  row->transfer += figures.transfer;
  row->direct += figures.direct;
  row->gap += bound ? double(figures.peak) / double(bound) - 1 : 0;
}

template <class Solve>
void Time(uint32_t repeats, const Solve& solve, Row* row) {
  solve();  // memory is there and warm
  for (uint32_t i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    solve();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    row->solve_us.push_back(took.count());
  }
}

// A placement that loses or invents tokens would make every other number worthless.
void Check(const PlanShape& shape, LoadView load, const Row& row,
           const std::vector<Instance>& instances) {
  std::vector<uint64_t> tokens(shape.experts, 0);
  for (const Instance& i : instances) tokens[i.expert] += i.tokens;
  for (uint32_t e = 0; e < shape.experts; ++e) {
    if (tokens[e] == ExpertTokens(load, e)) continue;
    std::fprintf(stderr, "ultraep-bench: bug: %s places %llu of %llu tokens of expert %u\n",
                 row.planner.c_str(), static_cast<unsigned long long>(tokens[e]),
                 static_cast<unsigned long long>(ExpertTokens(load, e)), e);
    std::abort();
  }
}

// Ours; returns the proven bound.
uint64_t RunOurs(const Workload& w, LoadView load, PlanWorkspace* workspace, Row* row) {
  PlanOptions options;
  options.epsilon_ppm = w.epsilon_ppm;
  Plan plan;
  Time(
      w.repeats, [&] { SolvePlan(w.shape, load, options, workspace, &plan); }, row);
  planner::Problem problem;
  std::vector<Instance> instances;
  planner::AddPlan(w.shape, load, plan.replicas, &problem, &instances);
  Check(w.shape, load, *row, instances);
  Add(w.shape, instances, plan.certificate.total, plan.certificate.lower_bound, row);
  return plan.certificate.lower_bound;
}

void RunBaseline(const Workload& w, LoadView load, const Baseline& baseline, uint64_t bound,
                 Row* row) {
  planner::Problem problem;
  std::vector<Instance> instances;
  Time(
      w.repeats, [&] { planner::Place(baseline, w.shape, load, &problem, &instances); }, row);
  Check(w.shape, load, *row, instances);
  Add(w.shape, instances, problem.total, bound, row);
}

double Percentile(std::vector<double>* values, double part) {
  std::sort(values->begin(), values->end());
  return (*values)[size_t(part * double(values->size() - 1))];
}

Json ToJson(const Workload& w, double before, Row* row) {
  const double n = w.seeds;
  return {{"planner", row->planner},
          {"ranks", w.shape.ranks},
          {"experts", w.shape.experts},
          {"slots", w.shape.slots},
          {"imbalance_before", before / n},
          {"imbalance_after", row->after / n},
          {"imbalance_after_worst", row->worst},
          {"replicas", row->replicas / n},
          {"max_replicas_per_expert", row->most_of_expert / n},
          {"transfer_units", row->transfer / n},
          {"direct_transfer_units", row->direct / n},
          {"solve_p50_us", Percentile(&row->solve_us, 0.5)},
          {"solve_p99_us", Percentile(&row->solve_us, 0.99)},
          {"gap", row->gap / n}};
}

void PrintTable(const Workload& w, const Json& rows) {
  std::printf("%u ranks, %u experts, %u slots per rank, generator %s, %u loads, epsilon %g\n",
              w.shape.ranks, w.shape.experts, w.shape.slots, w.generator.c_str(), w.seeds,
              w.epsilon_ppm / 1e6);
  std::printf("imbalance before %.3f; means over the loads\n\n",
              rows[0]["imbalance_before"].get<double>());
  std::printf("%-18s  %6s  %6s  %17s  %8s  %7s  %9s  %9s  %7s\n", "planner", "after", "worst",
              "replicas max/all", "transfer", "direct", "p50 us", "p99 us", "gap");
  for (const Json& row : rows) {
    auto value = [&row](const char* key) { return row[key].get<double>(); };
    std::printf("%-18s  %6.3f  %6.3f  %8.1f / %6.1f  %8.2f  %7.2f  %9.1f  %9.1f  %6.2f%%\n",
                row["planner"].get<std::string>().c_str(), value("imbalance_after"),
                value("imbalance_after_worst"), value("max_replicas_per_expert"), value("replicas"),
                value("transfer_units"), value("direct_transfer_units"), value("solve_p50_us"),
                value("solve_p99_us"), 100 * value("gap"));
  }
  std::printf(
      "\nreplicas: instances away from home, most of one expert / all; transfer: expert-times on "
      "the\nbusiest link with relays, direct: without; gap: peak above the proven bound\n");
}

}  // namespace

int RunPlanBench(const Workload& w, bool json) {
  std::vector<Row> rows(1);
  rows[0].planner = "ultraep";
  for (const Baseline& baseline : planner::Baselines()) rows.emplace_back().planner = baseline.name;
  PlanWorkspace workspace;
  double before = 0;
  for (uint32_t i = 0; i < w.seeds; ++i) {
    ShowProgress(absl::StrFormat("load %d of %d", i + 1, w.seeds));
    const test::LoadMatrix load = w.Draw(i);
    planner::Problem problem;
    problem.Load(w.shape, load.view(), {});
    before += Imbalance(problem.peak, problem.total, w.shape.ranks);
    const uint64_t bound = RunOurs(w, load.view(), &workspace, &rows[0]);
    for (size_t b = 0; b < planner::Baselines().size(); ++b)
      RunBaseline(w, load.view(), planner::Baselines()[b], bound, &rows[b + 1]);
  }
  EndProgress();
  Json out = {{"rows", Json::array()}};
  for (Row& row : rows) out["rows"].push_back(ToJson(w, before, &row));
  if (json)
    std::printf("%s\n", out.dump().c_str());
  else
    PrintTable(w, out["rows"]);
  return 0;
}

}  // namespace ultraep::bench

// `ultraep-bench stream`: how long the relay schedules take on the modelled network beside their
// bound and the baselines, and how fast this machine moves weights and gradients (executors.h).
#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/strings/str_format.h"
#include "daemon/planner/baselines/ultraep_heuristic.h"
#include "daemon/planner/baselines/ultraep_relay.h"
#include "daemon/planner/solve_plan.h"
#include "nlohmann/json.hpp"
#include "tests/bench/bench.h"
#include "tests/bench/executors.h"
#include "tests/bench/plan_file.h"
#include "tests/support/network_model.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::ordered_json;
using planner::Piece;

// Of one way to send, over the loads.
struct Simulated {
  std::string name;
  double times = 0, worst = 0, us = 0, bound = 0, depth = 0, over = 0;

  void Add(const test::Makespan& m) {
    times += m.expert_times;
    worst = std::max(worst, m.expert_times);
    us += m.us;
    bound += m.bound;
    depth += m.depth;
    if (m.bound_with_flags > 0) over = std::max(over, m.expert_times / m.bound_with_flags);
  }
  Json ToJson(double n) const {
    return {{"schedule", name},
            {"makespan_us", us / n},
            {"expert_times", times / n},
            {"expert_times_worst", worst},
            {"bound", bound / n},
            {"flags", depth / n},
            {"worst_of_bound_and_flags", over}};
  }
};

std::vector<Replica> Direct(const std::vector<Piece>& pieces) {
  std::vector<Replica> replicas;
  for (const Piece& p : pieces)
    replicas.push_back({p.expert, uint16_t(p.rank), 0, -1, 0, p.tokens});
  return replicas;
}

std::vector<Piece> PiecesOf(const std::vector<Replica>& replicas) {
  std::vector<Piece> pieces;
  for (const Replica& r : replicas) pieces.push_back({r.expert, r.rank, r.tokens});
  return pieces;
}

Json SimulateLoads(const Workload& w, const test::NetworkModel& model) {
  std::vector<Simulated> rows = {{"ultraep"},
                                 {"ultraep, all direct"},
                                 {"ultraep, two-stage relay"},
                                 {"ultraep-heuristic, two-stage relay"},
                                 {"ultraep-heuristic, all direct"}};
  PlanWorkspace workspace;
  PlanOptions options;
  options.epsilon_ppm = w.epsilon_ppm;
  const LinkModel link{uint32_t(model.link_gb_s * 1e3), uint32_t(model.flag_us * 1e3)};
  options.relay_hop = link.RelayHop(model.expert_bytes, model.chunk_bytes);
  double before = 0;
  for (uint32_t i = 0; i < w.seeds; ++i) {
    ShowProgress(absl::StrFormat("load %d of %d", i + 1, w.seeds));
    const test::LoadMatrix load = w.Draw(i);
    Plan plan;
    SolvePlan(w.shape, load.view(), options, &workspace, &plan);
    const std::vector<Piece> ours = PiecesOf(plan.replicas);
    std::vector<Piece> theirs;
    planner::Problem problem;
    problem.Load(w.shape, load.view(), {});
    before += Imbalance(problem.peak, problem.total, w.shape.ranks);
    planner::UltraEpHeuristic heuristic;
    heuristic.Reserve(w.shape);
    for (uint32_t d = 0; d < problem.domains(); ++d) {
      std::vector<Piece> part;
      problem.SortExperts(problem.domain(d));
      heuristic.Run(problem, problem.domain(d), &part);
      theirs.insert(theirs.end(), part.begin(), part.end());
    }
    rows[0].Add(SimulateTransfer(model, w.shape, plan.replicas));
    rows[1].Add(SimulateTransfer(model, w.shape, Direct(ours)));
    rows[2].Add(SimulateTransfer(model, w.shape, ours, UltraEpRelays(w.shape, ours)));
    rows[3].Add(SimulateTransfer(model, w.shape, theirs, UltraEpRelays(w.shape, theirs)));
    rows[4].Add(SimulateTransfer(model, w.shape, Direct(theirs)));
  }
  EndProgress();
  Json out = {{"imbalance_before", before / w.seeds}, {"expert_us", model.expert_us()}};
  for (const Simulated& row : rows) out["rows"].push_back(row.ToJson(w.seeds));
  return out;
}

// The plans of a file, as they are and sent directly.
Json SimulatePlans(const std::vector<FilePlan>& plans, const test::NetworkModel& model) {
  std::vector<Simulated> rows = {{"plans of the file"}, {"plans of the file, all direct"}};
  double before = 0;
  for (const FilePlan& plan : plans) {
    rows[0].Add(SimulateTransfer(model, plan.shape, plan.replicas));
    rows[1].Add(SimulateTransfer(model, plan.shape, Direct(PiecesOf(plan.replicas))));
    before += plan.imbalance_before;
  }
  Json out = {{"imbalance_before", before / double(plans.size())},
              {"expert_us", model.expert_us()}};
  for (const Simulated& row : rows) out["rows"].push_back(row.ToJson(double(plans.size())));
  return out;
}

void Print(const Workload& w, const Json& out) {
  const Json& model = out["simulated"];
  const std::string what =
      w.plan_file.empty()
          ? absl::StrFormat("%u ranks, %u experts, %u slots, generator %s, %u loads", w.shape.ranks,
                            w.shape.experts, w.shape.slots, w.generator, w.seeds)
          : "plans of " + w.plan_file;
  std::printf(
      "Modelled network: %s, imbalance %.2f;\nexperts of %.2f MB on %.0f GB/s links (%.1f us), "
      "flags of %.1f us\n\n",
      what.c_str(), model["imbalance_before"].get<double>(), double(w.expert_bytes) * 1e-6,
      w.link_gb_s, model["expert_us"].get<double>(), w.flag_us);
  std::printf("%-36s %9s %13s %7s %7s %6s %11s\n", "plan, schedule", "us", "expert-times", "worst",
              "bound", "flags", "of its bound");
  for (const Json& r : model["rows"]) {
    auto value = [&r](const char* key) { return r[key].get<double>(); };
    std::printf("%-36s %9.1f %13.3f %7.3f %7.2f %6.1f %10.3fx\n",
                r["schedule"].get<std::string>().c_str(), value("makespan_us"),
                value("expert_times"), value("expert_times_worst"), value("bound"), value("flags"),
                value("worst_of_bound_and_flags"));
  }
  std::printf("\nof its bound: worst makespan over (bound + flags on the way)\n");
  PrintExecutors(out["measured"], w.repeats);
}

}  // namespace

int RunStreamBench(const Workload& w, bool json) {
  test::NetworkModel model;
  model.expert_bytes = w.expert_bytes;
  model.link_gb_s = w.link_gb_s;
  model.flag_us = w.flag_us;
  Json out;
  if (w.plan_file.empty()) {
    out["simulated"] = SimulateLoads(w, model);
  } else {
    std::vector<FilePlan> plans;
    if (const std::string wrong = ReadPlans(w.plan_file, &plans); !wrong.empty()) {
      std::fprintf(stderr, "ultraep-bench: %s: %s\n", w.plan_file.c_str(), wrong.c_str());
      return 1;
    }
    out["simulated"] = SimulatePlans(plans, model);
  }
  out["measured"] = MeasureExecutors(w.expert_bytes, w.repeats);
  if (json)
    std::printf("%s\n", out.dump().c_str());
  else
    Print(w, out);
  return 0;
}

}  // namespace ultraep::bench

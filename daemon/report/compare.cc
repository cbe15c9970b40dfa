#include "daemon/report/compare.h"

#include <algorithm>

#include "daemon/planner/baselines/baseline.h"
#include "daemon/planner/baselines/placement.h"
#include "protocol/transport/waiting.h"
#include "protocol/verdict_board.h"

namespace ultraep::report {
namespace {

using planner::Instance;

struct Row {
  std::string name, about;
  uint64_t peaks = 0, tokens = 0;
  double worst = 0, gap = 0, replicas = 0, most = 0, transfer = 0, direct = 0;
  std::vector<double> solve_us;

  void Add(const PlanShape& shape, const trace::StepRow& step,
           const planner::PlacementFigures& figures) {
    peaks += figures.peak;
    tokens += uint64_t(step.tokens);
    worst = std::max(worst, Imbalance(figures.peak, uint64_t(step.tokens), shape.ranks));
    gap += step.lower_bound ? double(figures.peak) / double(step.lower_bound) - 1 : 0;
    replicas += figures.replicas;
    most += figures.most_of_expert;
    transfer += figures.transfer;
    direct += figures.direct;
  }
  Json ToJson(double steps, uint32_t ranks) {
    std::sort(solve_us.begin(), solve_us.end());
    return {{"name", name},
            {"about", about},
            {"after", Round(Imbalance(peaks, tokens, ranks))},
            {"worst", Round(worst)},
            {"gap", Round(gap / steps, 5)},
            {"replicas", Round(replicas / steps, 2)},
            {"most", Round(most / steps, 2)},
            {"transfer", Round(transfer / steps, 2)},
            {"direct", Round(direct / steps, 2)},
            {"solve_us", solve_us.empty() ? 0 : Round(solve_us[solve_us.size() / 2], 1)}};
  }
};

void AddStep(const PlanShape& shape, const trace::TraceStep& step, planner::Problem* problem,
             std::vector<Row>* rows) {
  const LoadView load = step.load(shape);
  std::vector<Instance> instances;
  planner::AddPlan(shape, load, {}, problem, &instances);
  (*rows)[0].Add(shape, step.row, planner::FiguresOf(shape, instances));
  instances.clear();
  planner::AddPlan(shape, load, step.replicas, problem, &instances);
  (*rows)[1].Add(shape, step.row, planner::FiguresOf(shape, instances));
  (*rows)[1].solve_us.push_back(double(step.row.solve_ns) / 1e3);
  for (size_t b = 0; b < planner::Baselines().size(); ++b) {
    const uint64_t start = NowNs();
    planner::Place(planner::Baselines()[b], shape, load, problem, &instances);
    (*rows)[b + 2].solve_us.push_back(double(NowNs() - start) / 1e3);
    (*rows)[b + 2].Add(shape, step.row, planner::FiguresOf(shape, instances));
  }
}

}  // namespace

std::string ComparePlanners(StepSource* source, uint64_t most, Json* out) {
  std::vector<Row> rows(2);
  rows[0].name = "none";
  rows[0].about = "main copies only";
  rows[1].name = "ultraep";
  rows[1].about = source->replans() ? "planned for this report" : "the recorded plans";
  for (const planner::Baseline& b : planner::Baselines()) {
    rows.emplace_back().name = b.name;
    rows.back().about = b.about;
  }
  planner::Problem problem;
  trace::TraceStep step;
  uint64_t steps = 0;
  const uint64_t count = std::min(most, source->steps());
  for (uint64_t i = 0; i < count; ++i) {
    // The middle of each part: a stride that layers divide would always meet the same layer.
    const uint64_t jitter = i * 7919 % std::max<uint64_t>(1, source->steps() / count);
    const uint64_t number = i * source->steps() / count + jitter;
    if (number >= source->steps()) break;
    if (std::string wrong = source->Read(number, &step); !wrong.empty()) return wrong;
    if (step.row.verdict != int64_t(Verdict::kPlan) || step.row.tokens == 0) continue;
    AddStep(source->shape(), step, &problem, &rows);
    ++steps;
  }
  *out = {{"steps", steps}, {"rows", Json::array()}};
  for (Row& row : rows)
    if (steps) (*out)["rows"].push_back(row.ToJson(double(steps), source->shape().ranks));
  return "";
}

}  // namespace ultraep::report

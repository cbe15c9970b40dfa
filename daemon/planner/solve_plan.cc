#include "daemon/planner/solve_plan.h"

#include <algorithm>
#include <vector>

#include "daemon/planner/lower_bound.h"
#include "daemon/planner/problem.h"
#include "daemon/planner/relays.h"
#include "daemon/planner/search.h"
#include "daemon/planner/step_cost.h"

namespace ultraep {

using planner::Piece;
using planner::Search;
using planner::StepCost;

namespace {

// Where replicas cost time, less balance may be the better plan. Tried besides the wanted epsilon.
constexpr uint32_t kCoarserPpm[] = {20'000, 50'000, 100'000, 200'000, 400'000};

}  // namespace

struct PlanWorkspace::Impl {
  planner::Problem problem;
  Search search;
  PlanOptions options;
  StepCost step_cost;
  planner::Relays relays;
  std::vector<Piece> chosen, candidate;
  std::vector<uint64_t> after;  // [rank] tokens
  std::vector<uint32_t> used_slots;
  uint64_t bound = 0;

  void Reserve(const PlanShape& shape);
  void SolveAll(uint32_t epsilon_ppm, std::vector<Piece>* pieces);
  void DropUseless(std::vector<Piece>* pieces);
  void ChooseByCost();
  void Publish(Plan* plan);
};

void PlanWorkspace::Impl::Reserve(const PlanShape& shape) {
  search.Reserve(shape);
  step_cost.Reserve(shape);
  relays.Reserve(shape);
  for (auto* v : {&chosen, &candidate}) v->reserve(uint64_t{shape.ranks} * shape.slots);
  after.reserve(shape.ranks);
  used_slots.reserve(shape.ranks);
}

void PlanWorkspace::Impl::SolveAll(uint32_t epsilon_ppm, std::vector<Piece>* pieces) {
  pieces->clear();
  for (uint32_t d = 0; d < problem.domains(); ++d)
    search.Solve(problem.domain(d), epsilon_ppm, &bound, pieces);
  if (problem.domains() > 1 && epsilon_ppm > 0) DropUseless(pieces);
}

// Everybody waits for the highest level: in a domain that was below it from the start, replicas
// gain nothing. It may turn out to be that high only after other domains were planned.
void PlanWorkspace::Impl::DropUseless(std::vector<Piece>* pieces) {
  after = problem.rank_tokens;
  for (const Piece& piece : *pieces) {
    after[problem.shape.home(piece.expert)] -= piece.tokens;
    after[piece.rank] += piece.tokens;
  }
  uint64_t peak = 0;
  for (uint32_t r = 0; r < problem.shape.ranks; ++r)
    peak = std::max(peak, problem.Level(r, after[r]));
  std::erase_if(*pieces, [&](const Piece& piece) {
    return problem.PeakOf(problem.domain(problem.shape.domain(piece.rank))) <= peak;
  });
}

// The cheapest of: no replicas, the wanted balance, coarser ones, and moves of whole experts.
// Earlier candidates win ties.
void PlanWorkspace::Impl::ChooseByCost() {
  const CostModel& model = options.cost;
  uint128 least = step_cost.Of(problem, model, chosen);
  if (least <= StepCost::LeastWithReplicas(model, bound)) return;
  auto try_candidate = [&] {
    if (candidate.empty()) return;
    const uint128 cost = step_cost.Of(problem, model, candidate);
    if (cost >= least) return;
    least = cost;
    chosen.swap(candidate);
  };
  constexpr uint32_t kSearches = 1 + std::size(kCoarserPpm);
  search.Start(&problem, options, problem.domains() * kSearches);
  SolveAll(options.epsilon_ppm, &candidate);
  try_candidate();
  for (const uint32_t ppm : kCoarserPpm) {
    if (ppm <= options.epsilon_ppm) continue;
    if (problem.peak <= Search::Allowed(bound, ppm)) break;  // no replicas: tried first
    SolveAll(ppm, &candidate);
    try_candidate();
  }
  if (model.instance == 0) return;
  candidate.clear();
  for (uint32_t d = 0; d < problem.domains(); ++d)
    step_cost.MoveWhole(problem, model, problem.domain(d), &candidate);
  try_candidate();
}

void PlanWorkspace::Impl::Publish(Plan* plan) {
  const PlanShape& shape = problem.shape;
  used_slots.assign(shape.ranks, 0);
  for (const auto& transfer : relays.Schedule(shape, options.relay_hop, chosen)) {
    const Piece& piece = chosen[transfer.piece];
    Replica replica;
    replica.expert = piece.expert;
    replica.rank = uint16_t(piece.rank);
    replica.slot = uint16_t(used_slots[piece.rank]++);
    replica.parent = transfer.parent;
    replica.tokens = piece.tokens;
    plan->replicas.push_back(replica);
    problem.rank_tokens[shape.home(piece.expert)] -= piece.tokens;
    problem.rank_tokens[piece.rank] += piece.tokens;
  }
  plan->certificate.peak = problem.PeakOf({0, shape.ranks});
  plan->certificate.lower_bound = bound;
}

PlanWorkspace::PlanWorkspace() : impl_(std::make_unique<Impl>()) {}
PlanWorkspace::~PlanWorkspace() = default;
PlanWorkspace::PlanWorkspace(PlanWorkspace&&) noexcept = default;
PlanWorkspace& PlanWorkspace::operator=(PlanWorkspace&&) noexcept = default;

void SolvePlan(const PlanShape& shape, LoadView load, const PlanOptions& options,
               PlanWorkspace* workspace, Plan* plan) {
  PlanWorkspace::Impl& w = *workspace->impl_;
  w.options = options;
  w.problem.Load(shape, load, w.options);
  w.Reserve(shape);
  w.chosen.clear();
  plan->replicas.clear();
  plan->replicas.reserve(uint64_t{shape.ranks} * shape.slots);
  w.bound = 0;
  const uint32_t domains = w.problem.domains();
  for (uint32_t d = 0; d < domains; ++d)
    w.bound = std::max(w.bound, planner::MeanBound(w.problem, w.problem.domain(d)));
  plan->certificate = {w.problem.total, w.problem.peak, w.problem.peak, w.bound};
  const bool balanced = w.problem.peak <= Search::Allowed(w.bound, options.epsilon_ppm);
  if (options.cost.known()) {
    w.ChooseByCost();
  } else if (!balanced || options.epsilon_ppm == 0) {
    w.search.Start(&w.problem, w.options, domains);
    w.SolveAll(options.epsilon_ppm, &w.chosen);
  }
  if (w.chosen.empty())
    plan->certificate.lower_bound = w.bound;
  else
    w.Publish(plan);
}

}  // namespace ultraep

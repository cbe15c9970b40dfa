#include "daemon/planner/step_cost.h"

#include <algorithm>

namespace ultraep::planner {

void StepCost::Reserve(const PlanShape& shape) {
  tokens_.reserve(shape.ranks);
  main_left_.reserve(shape.experts);
  for (auto* v : {&instances_, &received_, &exported_}) v->reserve(shape.ranks);
}

void StepCost::CountMains(const Problem& problem) {
  const PlanShape& shape = problem.shape;
  tokens_ = problem.rank_tokens;
  main_left_ = problem.expert_tokens;
  for (auto* v : {&instances_, &received_, &exported_}) v->assign(shape.ranks, 0);
  for (uint32_t e = 0; e < shape.experts; ++e)
    if (main_left_[e] > 0) ++instances_[shape.home(e)];
}

uint128 StepCost::Of(const Problem& problem, const CostModel& model,
                     const std::vector<Piece>& pieces) {
  const PlanShape& shape = problem.shape;
  CountMains(problem);
  for (const Piece& piece : pieces) {
    const uint32_t home = shape.home(piece.expert);
    if (main_left_[piece.expert] == problem.expert_tokens[piece.expert]) ++exported_[home];
    main_left_[piece.expert] -= piece.tokens;
    if (main_left_[piece.expert] == 0) --instances_[home];
    ++instances_[piece.rank];
    ++received_[piece.rank];
    tokens_[home] -= piece.tokens;
    tokens_[piece.rank] += piece.tokens;
  }
  uint128 slowest = 0;
  uint32_t transfer = 0;
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    slowest = std::max(slowest, RankCost(problem, model, r));
    transfer = std::max({transfer, received_[r], exported_[r]});
  }
  return slowest + uint128{transfer} * model.expert;
}

void StepCost::Shift(const Problem& problem, uint32_t expert, uint32_t from, uint32_t to) {
  const uint64_t tokens = problem.expert_tokens[expert];
  tokens_[from] -= tokens;
  tokens_[to] += tokens;
  --instances_[from];
  ++instances_[to];
}

// To the cheapest rank with a free slot, the expert that leaves the two ranks most alike.
StepCost::Move StepCost::BestMove(const Problem& problem, const CostModel& model, Domain domain,
                                  uint32_t from) {
  Move best;
  best.higher = RankCost(problem, model, from);
  for (uint32_t r = domain.begin; r < domain.end; ++r) {
    if (r == from || received_[r] >= problem.slots_of(r)) continue;
    if (best.rank == kNone || RankCost(problem, model, r) < RankCost(problem, model, best.rank))
      best.rank = r;
  }
  if (best.rank == kNone) return best;
  const uint32_t first = problem.first_expert(from);
  for (uint32_t e = first; e < first + problem.shape.experts_per_rank(); ++e) {
    if (main_left_[e] == 0) continue;
    Shift(problem, e, from, best.rank);
    const uint128 higher =
        std::max(RankCost(problem, model, from), RankCost(problem, model, best.rank));
    Shift(problem, e, best.rank, from);
    if (higher >= best.higher) continue;
    best.higher = higher;
    best.expert = e;
  }
  return best;
}

void StepCost::MoveWhole(const Problem& problem, const CostModel& model, Domain domain,
                         std::vector<Piece>* pieces) {
  CountMains(problem);
  for (;;) {
    uint32_t costliest = domain.begin;
    for (uint32_t r = domain.begin; r < domain.end; ++r)
      if (RankCost(problem, model, r) > RankCost(problem, model, costliest)) costliest = r;
    const Move move = BestMove(problem, model, domain, costliest);
    if (move.expert == kNone) return;
    pieces->push_back({move.expert, move.rank, problem.expert_tokens[move.expert]});
    Shift(problem, move.expert, costliest, move.rank);
    main_left_[move.expert] = 0;
    ++received_[move.rank];
  }
}

}  // namespace ultraep::planner

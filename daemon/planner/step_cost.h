// What a step is predicted to cost under a set of replicas (CostModel), and the moves of whole
// experts that small batches prefer.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/problem.h"
#include "protocol/split.h"

namespace ultraep::planner {

class StepCost {
 public:
  void Reserve(const PlanShape& shape);

  // Picoseconds; `pieces` of all domains.
  uint128 Of(const Problem& problem, const CostModel& model, const std::vector<Piece>& pieces);

  // No plan with replicas costs less: the tokens at the lower bound, and one transfer.
  static uint128 LeastWithReplicas(const CostModel& model, uint64_t bound) {
    return uint128{bound} * model.token + model.expert;
  }

  // Appends replicas that take all tokens of their expert, from the costliest rank to the cheapest
  // one again and again, as long as that lowers the higher of the two. At decode sizes an instance
  // costs more than its tokens, and a moved expert needs no second instance.
  void MoveWhole(const Problem& problem, const CostModel& model, Domain domain,
                 std::vector<Piece>* pieces);

 private:
  struct Move {
    uint32_t expert = kNone, rank = kNone;
    uint128 higher = 0;  // of the two ranks' costs afterwards
  };
  void CountMains(const Problem& problem);
  uint128 RankCost(const Problem& problem, const CostModel& model, uint32_t rank) const {
    return uint128{problem.Level(rank, tokens_[rank])} * model.token +
           uint128{instances_[rank]} * model.instance;
  }
  Move BestMove(const Problem& problem, const CostModel& model, Domain domain, uint32_t from);
  void Shift(const Problem& problem, uint32_t expert, uint32_t from, uint32_t to);

  std::vector<uint64_t> tokens_;     // [rank]
  std::vector<uint64_t> main_left_;  // [expert] tokens its main copy takes
  std::vector<uint32_t> instances_;  // [rank] experts with tokens, mains and replicas
  std::vector<uint32_t> received_;   // [rank] replicas
  std::vector<uint32_t> exported_;   // [rank] distinct experts sent
};

}  // namespace ultraep::planner

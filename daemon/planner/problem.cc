#include "daemon/planner/problem.h"

#include <algorithm>

namespace ultraep::planner {

void Problem::Load(const PlanShape& new_shape, LoadView load) {
  shape = new_shape;
  expert_tokens.assign(shape.experts, 0);
  rank_tokens.assign(shape.ranks, 0);
  uint64_t* const sums = expert_tokens.data();
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    const uint32_t* const row = load.row(r);
    for (uint32_t e = 0; e < shape.experts; ++e) sums[e] += row[e];
  }
  total = 0;
  peak = 0;
  const uint32_t per_rank = shape.experts_per_rank();
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    for (uint32_t i = 0; i < per_rank; ++i) rank_tokens[r] += sums[r * per_rank + i];
    total += rank_tokens[r];
    peak = std::max(peak, rank_tokens[r]);
  }
}

void Problem::SortExperts() {
  heaviest.resize(shape.experts);
  const uint32_t per_rank = shape.experts_per_rank();
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    uint32_t* const mine = &heaviest[first_expert(r)];
    for (uint32_t i = 0; i < per_rank; ++i) mine[i] = first_expert(r) + i;
    std::sort(mine, mine + per_rank, [this](uint32_t a, uint32_t b) {
      return expert_tokens[a] != expert_tokens[b] ? expert_tokens[a] > expert_tokens[b] : a < b;
    });
  }
}

uint64_t Problem::PeakOf(Domain domain) const {
  return *std::max_element(rank_tokens.begin() + domain.begin, rank_tokens.begin() + domain.end);
}

}  // namespace ultraep::planner

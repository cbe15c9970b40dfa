#include "daemon/planner/problem.h"

#include <algorithm>

#include "daemon/planner/column_sums.h"

namespace ultraep::planner {

void Problem::Load(const PlanShape& new_shape, LoadView load, const PlanOptions& options) {
  shape = new_shape;
  speeds = options.speeds;
  without_slots = options.without_slots;
  expert_tokens.resize(shape.experts);
  heaviest.resize(shape.experts);
  rank_tokens.resize(shape.ranks);
  sorted.assign(shape.ranks, 0);
  ColumnSums(load, expert_tokens.data(), BestIsa());
  total = 0;
  peak = 0;
  const uint32_t per_rank = shape.experts_per_rank();
  for (uint32_t r = 0; r < shape.ranks; ++r) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < per_rank; ++i) sum += expert_tokens[r * per_rank + i];
    rank_tokens[r] = sum;
    total += sum;
    peak = std::max(peak, Level(r, sum));
  }
}

void Problem::SortExpertsOf(uint32_t rank) {
  if (sorted[rank]) return;
  sorted[rank] = 1;
  const uint32_t per_rank = shape.experts_per_rank();
  uint32_t* const mine = &heaviest[first_expert(rank)];
  for (uint32_t i = 0; i < per_rank; ++i) mine[i] = first_expert(rank) + i;
  std::sort(mine, mine + per_rank, [this](uint32_t a, uint32_t b) {
    return expert_tokens[a] != expert_tokens[b] ? expert_tokens[a] > expert_tokens[b] : a < b;
  });
}

void Problem::SortExperts(Domain domain) {
  for (uint32_t r = domain.begin; r < domain.end; ++r) SortExpertsOf(r);
}

uint64_t Problem::PeakOf(Domain domain) const {
  uint64_t most = 0;
  for (uint32_t r = domain.begin; r < domain.end; ++r)
    most = std::max(most, Level(r, rank_tokens[r]));
  return most;
}

void Target::Reserve(const PlanShape& shape) {
  limit.reserve(shape.ranks);
  emptiest_.reserve(shape.ranks);
}

void Target::Set(const Problem& problem, Domain domain, uint64_t new_level, bool exact) {
  level = new_level;
  limit.resize(problem.shape.ranks);
  uint64_t room = 0, tokens = 0;
  for (uint32_t r = domain.begin; r < domain.end; ++r) {
    limit[r] = problem.Limit(r, level);
    room += limit[r];
    tokens += problem.rank_tokens[r];
  }
  if (!exact || room < tokens || room - tokens >= domain.size()) return;
  emptiest_.resize(domain.size());
  for (uint32_t i = 0; i < domain.size(); ++i) emptiest_[i] = domain.begin + i;
  std::sort(emptiest_.begin(), emptiest_.end(), [&problem](uint32_t a, uint32_t b) {
    const uint64_t x = problem.rank_tokens[a], y = problem.rank_tokens[b];
    return x != y ? x < y : a < b;
  });
  // A slow rank's limit may be 0 already.
  for (uint64_t spare = room - tokens; spare > 0;)
    for (uint32_t i = 0; i < domain.size() && spare > 0; ++i)
      if (limit[emptiest_[i]] > 0) {
        --limit[emptiest_[i]];
        --spare;
      }
}

}  // namespace ultraep::planner

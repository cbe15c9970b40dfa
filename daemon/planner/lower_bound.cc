#include "daemon/planner/lower_bound.h"

#include <algorithm>

#include "protocol/split.h"

namespace ultraep::planner {

uint64_t MeanBound(const Problem& problem, Domain domain) {
  uint64_t sum = 0, speed = 0;
  uint32_t slots = 0;
  for (uint32_t r = domain.begin; r < domain.end; ++r) {
    sum += problem.rank_tokens[r];
    speed += problem.speeds.empty() ? kFullSpeed : problem.speeds[r];
    slots += problem.slots_of(r);
  }
  if (slots == 0) return problem.PeakOf(domain);
  return uint64_t((uint128{sum} * kFullSpeed + speed - 1) / speed);
}

void LowerBound::Reserve(const PlanShape& shape) {
  by_tokens_.reserve(shape.experts);
  ceiling_.reserve(shape.ranks);
}

void LowerBound::FindCeilings(const Problem& problem, Domain domain) {
  const PlanShape& shape = problem.shape;
  const uint32_t experts = domain.size() * shape.experts_per_rank();
  by_tokens_.resize(experts);
  for (uint32_t i = 0; i < experts; ++i) by_tokens_[i] = problem.first_expert(domain.begin) + i;
  // A rank skips at most its own experts before it has found its S foreign ones.
  const uint32_t wanted = std::min(experts, shape.slots + shape.experts_per_rank());
  std::partial_sort(by_tokens_.begin(), by_tokens_.begin() + wanted, by_tokens_.end(),
                    [&problem](uint32_t a, uint32_t b) {
                      const uint64_t x = problem.expert_tokens[a], y = problem.expert_tokens[b];
                      return x != y ? x > y : a < b;
                    });
  ceiling_.resize(domain.size());
  for (uint32_t r = domain.begin; r < domain.end; ++r) {
    uint64_t most = problem.rank_tokens[r];
    uint32_t slots = problem.slots_of(r);
    for (uint32_t i = 0; i < wanted && slots > 0; ++i) {
      if (shape.home(by_tokens_[i]) == r) continue;
      most += problem.expert_tokens[by_tokens_[i]];
      --slots;
    }
    ceiling_[r - domain.begin] = most;
  }
}

bool LowerBound::Possible(const Problem& problem, Domain domain, uint64_t level) const {
  uint64_t sum = 0, room = 0, slots = 0;
  for (uint32_t r = domain.begin; r < domain.end; ++r) slots += problem.slots_of(r);
  const uint64_t all_slots = slots;
  for (uint32_t r = domain.begin; r < domain.end; ++r) {
    const uint64_t limit = problem.Limit(r, level);
    sum += problem.rank_tokens[r];
    room += std::min(limit, ceiling_[r - domain.begin]);
    uint64_t left = problem.rank_tokens[r];
    uint64_t foreign_slots = all_slots - problem.slots_of(r);
    for (uint32_t i = 0; left > limit; ++i) {
      if (i == problem.shape.experts_per_rank() || slots == 0 || foreign_slots == 0) return false;
      left -= problem.expert_tokens[problem.experts_of(r)[i]];
      --slots;
      --foreign_slots;
    }
  }
  return room >= sum;
}

uint64_t LowerBound::Find(const Problem& problem, Domain domain, uint64_t known) {
  FindCeilings(problem, domain);
  uint64_t low = known, high = std::max(known, problem.PeakOf(domain));
  if (Possible(problem, domain, low)) return low;
  while (high - low > 1) {  // low is impossible, high is possible
    const uint64_t middle = low + (high - low) / 2;
    (Possible(problem, domain, middle) ? high : low) = middle;
  }
  return high;
}

}  // namespace ultraep::planner

// The planning problem in the form all stages of the search share.
#pragma once

#include <cstdint>
#include <vector>

#include "protocol/load.h"
#include "protocol/plan.h"

namespace ultraep::planner {

inline constexpr uint32_t kNone = UINT32_MAX;

// Ranks of one scale-up domain. Replicas never leave it, so domains are planned one by one.
struct Domain {
  uint32_t begin = 0, end = 0;

  uint32_t size() const { return end - begin; }
};

// One replica while it is searched for.
struct Piece {
  uint32_t expert = 0;
  uint32_t rank = 0;
  uint64_t tokens = 0;
};

// Bounds the search by counting table entries looked at rather than time: every machine stops at
// the same place.
struct Work {
  uint64_t spent = 0;
  uint64_t limit = UINT64_MAX;

  bool over() const { return spent >= limit; }
};

// Sums over all cells stay below 2^53 (512 x 4096 cells of 32 bits), which leaves ten bits for the
// integer factors below.
struct Problem {
  PlanShape shape;
  std::vector<uint64_t> expert_tokens;
  std::vector<uint64_t> rank_tokens;  // of the main copies, before balancing
  std::vector<uint32_t> heaviest;     // [rank][i] -> the rank's experts, most tokens first
  uint64_t total = 0;
  uint64_t peak = 0;

  uint32_t first_expert(uint32_t rank) const { return rank * shape.experts_per_rank(); }
  const uint32_t* experts_of(uint32_t rank) const { return &heaviest[first_expert(rank)]; }
  uint32_t domains() const { return shape.domain_size ? shape.ranks / shape.domain_size : 1; }
  Domain domain(uint32_t index) const {
    const uint32_t size = shape.domain_size ? shape.domain_size : shape.ranks;
    return {index * size, (index + 1) * size};
  }

  // Sums only; cheap, and enough to see that nothing needs balancing.
  void Load(const PlanShape& new_shape, LoadView load);
  void SortExperts();
  uint64_t PeakOf(Domain domain) const;
};

}  // namespace ultraep::planner

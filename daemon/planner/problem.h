// The planning problem in the form all stages of the search share.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/plan_options.h"
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

// Sums stay below 2^53 over all cells (512 x 4096 of 32 bits) and below 2^44 on one rank; levels of
// slow ranks below 2^54 (x 2^10). That leaves ten bits for the integer factors below.
//
// Tokens are compared between ranks of different speed as *levels*: what a rank at full speed would
// have to take to be busy as long. At full speed a level is the number of tokens.
struct Problem {
  PlanShape shape;
  std::vector<uint64_t> expert_tokens;
  std::vector<uint64_t> rank_tokens;  // of the main copies, before balancing
  std::vector<uint32_t> heaviest;     // [rank][i] -> the rank's experts, most tokens first
  std::vector<uint8_t> sorted;        // [rank] whether its part of `heaviest` is there
  std::vector<uint32_t> speeds;       // [ranks] or empty, as in PlanOptions
  std::vector<uint8_t> without_slots;
  uint64_t total = 0;
  uint64_t peak = 0;  // highest level

  uint32_t first_expert(uint32_t rank) const { return rank * shape.experts_per_rank(); }
  const uint32_t* experts_of(uint32_t rank) const { return &heaviest[first_expert(rank)]; }
  uint32_t domains() const { return shape.domain_size ? shape.ranks / shape.domain_size : 1; }
  Domain domain(uint32_t index) const {
    const uint32_t size = shape.domain_size ? shape.domain_size : shape.ranks;
    return {index * size, (index + 1) * size};
  }
  uint32_t slots_of(uint32_t rank) const {
    return without_slots.empty() || !without_slots[rank] ? shape.slots : 0;
  }
  uint64_t Level(uint32_t rank, uint64_t tokens) const {
    return speeds.empty() ? tokens : (tokens * kFullSpeed + speeds[rank] - 1) / speeds[rank];
  }
  uint64_t Limit(uint32_t rank, uint64_t level) const {  // most tokens at that level
    return speeds.empty() ? level : level * speeds[rank] / kFullSpeed;
  }

  // Sums only; cheap, and enough to see that nothing needs balancing.
  void Load(const PlanShape& new_shape, LoadView load, const PlanOptions& options);
  // Sorting is put off until a rank's experts are asked for: most ranks never export.
  void SortExpertsOf(uint32_t rank);
  void SortExperts(Domain domain);
  uint64_t PeakOf(Domain domain) const;
};

// Where each rank is to end: at most limit[rank] tokens, rank in 0..ranks.
struct Target {
  uint64_t level = 0;
  std::vector<uint64_t> limit;

  // All ranks at or below `level`. Exact: where all ranks together have room left, one token less
  // on the emptiest ranks, until there is no room and every rank has to end exactly at its limit.
  void Set(const Problem& problem, Domain domain, uint64_t new_level, bool exact);
  void Reserve(const PlanShape& shape);

 private:
  std::vector<uint32_t> emptiest_;
};

}  // namespace ultraep::planner

// The load of one step: tokens each source rank routes to each logical expert, after gating.
#pragma once

#include <cstdint>

namespace ultraep {

// What a plan is made for. Expert e's main copy lives on rank e / (experts / ranks).
struct PlanShape {
  uint32_t ranks = 0;
  uint32_t experts = 0;      // multiple of ranks
  uint32_t slots = 0;        // redundant slots per rank
  uint32_t domain_size = 0;  // ranks per scale-up domain; 0 = all ranks are one domain

  uint32_t experts_per_rank() const { return experts / ranks; }
  uint32_t home(uint32_t expert) const { return expert / experts_per_rank(); }
  uint32_t domain(uint32_t rank) const { return domain_size ? rank / domain_size : 0; }
};

// Matrix L[ranks][experts], row-major, owned by somebody else.
struct LoadView {
  const uint32_t* tokens = nullptr;
  uint32_t ranks = 0;
  uint32_t experts = 0;

  const uint32_t* row(uint32_t rank) const { return tokens + uint64_t{rank} * experts; }
  uint32_t at(uint32_t rank, uint32_t expert) const { return row(rank)[expert]; }
};

// Sums of uint32 cells need 64 bits: 512 ranks x 2^32 tokens.
inline uint64_t RowTokens(const uint32_t* row, uint32_t experts) {
  uint64_t sum = 0;
  for (uint32_t e = 0; e < experts; ++e) sum += row[e];
  return sum;
}

inline uint64_t ExpertTokens(LoadView load, uint32_t expert) {
  uint64_t sum = 0;
  for (uint32_t r = 0; r < load.ranks; ++r) sum += load.at(r, expert);
  return sum;
}

}  // namespace ultraep

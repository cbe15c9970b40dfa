// Counts the load row of a step: tokens per logical expert in a rank's ids after gating.
#pragma once

#include <cstdint>
#include <string>

namespace ultraep {

// The first id that is neither -1 nor an expert. `wrong` false: all ids were fine.
struct IdFault {
  bool wrong = false;
  uint64_t index = 0;
  int32_t value = 0;

  explicit operator bool() const { return wrong; }
  std::string text(uint32_t experts) const;
};

// ids: [n], -1 = none (dropped token or padding), n <= kMaxRowTokens. row: [experts], overwritten.
// On a fault nothing is written. Allocates nothing.
IdFault CountLoad(const int32_t* ids, uint64_t n, uint32_t experts, uint32_t* row);

// The check alone.
IdFault CheckIds(const int32_t* ids, uint64_t n, uint32_t experts);

}  // namespace ultraep

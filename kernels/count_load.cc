#include "kernels/count_load.h"

#include <algorithm>

namespace ultraep {

std::string IdFault::text(uint32_t experts) const {
  if (!wrong) return "all ids are in range";
  return "ids[" + std::to_string(index) + "] is " + std::to_string(value) + ", must be -1 or 0.." +
         std::to_string(experts - 1);
}

IdFault CheckIds(const int32_t* ids, uint64_t n, uint32_t experts) {
  for (uint64_t i = 0; i < n; ++i) {
    // -1 becomes 0, experts become 1..experts, all others are larger.
    if (static_cast<uint32_t>(ids[i]) + 1u > experts) return {true, i, ids[i]};
  }
  return {};
}

IdFault CountLoad(const int32_t* ids, uint64_t n, uint32_t experts, uint32_t* row) {
  if (IdFault fault = CheckIds(ids, n, experts)) return fault;
  std::fill(row, row + experts, 0u);
  for (uint64_t i = 0; i < n; ++i) {
    if (ids[i] >= 0) ++row[ids[i]];
  }
  return {};
}

}  // namespace ultraep

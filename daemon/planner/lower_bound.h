// Peaks no plan can get below.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/problem.h"

namespace ultraep::planner {

// Rounded-up mean level of the domain, and its heaviest rank when there is nothing to move it with.
uint64_t MeanBound(const Problem& problem, Domain domain);

// The stronger of two counting arguments, at least `known`; both allow a rank to export and import
// at once, so they hold for every plan. Needs sorted experts.
//   fill: a rank cannot hold more than its own tokens and its S heaviest foreign experts;
//   slots: a rank gets below the peak only by exporting its heaviest experts, a slot for each.
class LowerBound {
 public:
  void Reserve(const PlanShape& shape);
  uint64_t Find(const Problem& problem, Domain domain, uint64_t known);

 private:
  bool Possible(const Problem& problem, Domain domain, uint64_t level) const;
  void FindCeilings(const Problem& problem, Domain domain);

  std::vector<uint32_t> by_tokens_;  // heaviest experts of the domain
  std::vector<uint64_t> ceiling_;    // [rank of the domain] -> most tokens it can ever hold
};

}  // namespace ultraep::planner

// The heuristic that UltraEP publishes (arXiv 2606.04101, section on quota-driven planning),
// written from its description: what our search has to beat on every load, and what it falls back
// to where it does not.
//
// One source after the other, heaviest first; of its experts the heaviest first; each piece goes to
// the rank with the largest slack. A piece must not be below a floor. Ranks above the threshold
// only export, ranks below only import, and one token always stays with the main copy.
//   fast: up to three thresholds from 1.01 x mean in steps of 1 % of the peak, the floor being an
//         equal share of what the source still has to give;
//   slow: the smallest threshold that works with a floor of 1024 tokens, by 4-ary search.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/problem.h"

namespace ultraep::planner {

class UltraEpHeuristic {
 public:
  void Reserve(const PlanShape& shape);

  // Fills `pieces` for one domain and returns the highest level they leave; the domain's experts
  // must be sorted.
  uint64_t Run(const Problem& problem, Domain domain, std::vector<Piece>* pieces);

 private:
  struct Receiver {
    uint64_t slack = 0;
    uint32_t slots = 0;
    uint32_t last = kNone;  // expert it got last: one expert is handed out at a time
  };

  void Start(uint64_t threshold);
  uint32_t LargestSlack(uint32_t expert, uint32_t* eligible) const;
  bool Export(uint32_t rank, uint64_t need, bool dynamic_floor);
  bool Try(uint64_t threshold, bool dynamic_floor);
  uint64_t SmallestThreshold(uint64_t low, uint64_t high);
  uint64_t Peak();

  const Problem* problem_ = nullptr;
  Domain domain_;
  std::vector<Piece>* pieces_ = nullptr;
  std::vector<uint32_t> sources_;  // ranks, heaviest first
  std::vector<Receiver> receivers_;
  std::vector<uint64_t> tokens_;
  uint64_t slack_ = 0;  // of all receivers
};

}  // namespace ultraep::planner

// The search for one scale-up domain: covers, and where they do not reach the wanted level, bound,
// repair, bisection and kicks, as long as the work limit lasts.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/baselines/ultraep_heuristic.h"
#include "daemon/planner/cover.h"
#include "daemon/planner/lower_bound.h"
#include "daemon/planner/plan_options.h"
#include "daemon/planner/problem.h"
#include "daemon/planner/repair.h"

namespace ultraep::planner {

class Search {
 public:
  Search() = default;
  Search(const Search&) = delete;  // members point to `work_`

  // The largest sizes of the shape, so that later loads of it allocate nothing.
  void Reserve(const PlanShape& shape);

  // For the searches of one plan, which share the work limit equally.
  void Start(Problem* problem, const PlanOptions& options, uint32_t searches);

  // Appends the domain's replicas to `chosen`. `bound` is the highest level proven to be necessary
  // so far, and is raised where a higher one is found. `epsilon_ppm` as in PlanOptions.
  void Solve(Domain domain, uint32_t epsilon_ppm, uint64_t* bound, std::vector<Piece>* chosen);

  static uint64_t Allowed(uint64_t bound, uint32_t epsilon_ppm);

 private:
  uint32_t variants() const;
  void Aim(uint64_t level);
  bool CoverWith(uint32_t slots, uint32_t tile_tokens);
  bool CoverAll();
  bool Keep(bool done);
  bool RepairAll(uint32_t starts);
  void Bisect(uint64_t level);
  bool Kick(uint64_t level);
  void KickAll(uint64_t level);
  void SolveHard(uint64_t level);
  void TakeHeuristic();

  Work work_;
  Cover cover_{&work_};
  Repair repair_{&work_};
  LowerBound lower_bound_;
  UltraEpHeuristic heuristic_;
  const PlanOptions* options_ = nullptr;
  Problem* problem_ = nullptr;
  uint64_t share_ = 0;  // of the work limit, for one search

  Domain domain_;
  bool exact_ = false;
  Target target_;
  uint64_t bound_ = 0;
  uint64_t reached_ = 0;  // level of `best_`
  uint32_t kick_ = 0;     // number of the next one
  std::vector<Piece> best_, pieces_, start_;
};

}  // namespace ultraep::planner

// The planner: which legal plan to choose for the load of one step.
//
// A pure function: no clock, no globals, no threads, no floating point, so every daemon of a group
// gets the same plan from the same rows. It allocates nothing once the workspace has seen a shape
// as large as the present one.
//
// What holds for every shape that CheckShape accepts and every load:
//   * the plan is legal, quotas are exact, and no replica is without tokens;
//   * the peak never exceeds the unbalanced peak, and without a gain there are no replicas;
//   * the certificate's lower bound is proven, also for plans this search cannot find.
// Peak within options.epsilon_ppm of the bound is the aim, not a promise: with few slots the bound
// itself may be out of reach. certificate.peak says what was reached.
#pragma once

#include <memory>

#include "daemon/planner/plan_options.h"
#include "protocol/plan.h"

namespace ultraep {

// Scratch memory of SolvePlan. Reusable over shapes; never influences the result. One thread at a
// time.
class PlanWorkspace {
 public:
  PlanWorkspace();
  ~PlanWorkspace();
  PlanWorkspace(PlanWorkspace&&) noexcept;
  PlanWorkspace& operator=(PlanWorkspace&&) noexcept;

 private:
  friend void SolvePlan(const PlanShape&, LoadView, const PlanOptions&, PlanWorkspace*, Plan*);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// `load` has shape.ranks rows and shape.experts columns. Replicas come in transfer order, with
// the relay each one's weights come from (see relays.h).
void SolvePlan(const PlanShape& shape, LoadView load, const PlanOptions& options,
               PlanWorkspace* workspace, Plan* plan);

}  // namespace ultraep

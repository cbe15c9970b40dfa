// The daemon's side of the steps of one group: collect the rows, solve, publish, propose PLAN.
// Knows nothing of sockets or threads; works on whatever memory the boards point to.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "daemon/planner/solve_plan.h"
#include "protocol/boards.h"
#include "protocol/message.h"

namespace ultraep {

// Called by one thread (the planner), except Counters.
class StepPlanner {
 public:
  enum class Progress { kNone, kStep, kOver };

  StepPlanner(const Boards& boards, uint64_t generation, const PlanOptions& options);

  // Looks at the next step once; never waits. kStep: a verdict was reached (wake the ranks), kOver:
  // the generation is over and nothing will come any more.
  Progress Poll();

  uint64_t next_sequence() const { return next_; }
  // Any thread.
  GroupCounters Counters() const;

 private:
  Progress Advance();  // to the next step
  void CountFallback();
  bool CollectRows();
  void Decide();
  const char* CheckRows();
  void Account(const Plan& plan, uint64_t solve_ns);

  const Boards boards_;
  const uint64_t generation_;
  const PlanOptions options_;

  bool started_ = false;
  uint64_t next_ = 0;
  uint32_t copied_ = 0;  // rows of step next_ that are private already
  std::vector<bool> have_row_;
  std::vector<RowHeader> headers_;
  std::vector<uint32_t> rows_;  // [ranks][experts], each row padded for whole-word copies
  uint32_t row_stride_;         // in uint32
  std::vector<uint32_t> load_;  // [ranks][experts], dense

  PlanWorkspace workspace_;
  Plan plan_;
  RecordedPlan record_;
  PlanChecker checker_;

  mutable std::mutex mutex_;  // guards the two below
  GroupCounters counters_;
  std::vector<uint64_t> solve_ns_;  // ring of the last solves
};

}  // namespace ultraep

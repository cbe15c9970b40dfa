// The daemon's side of the steps of one group: collect the rows, solve, publish, propose PLAN.
// Knows nothing of sockets or threads; works on whatever memory the boards point to.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/planner/solve_plan.h"
#include "daemon/session/statistics.h"
#include "protocol/boards.h"

namespace ultraep {

// Called by one thread (the planner).
class StepPlanner {
 public:
  enum class Progress { kNone, kStep, kOver };

  StepPlanner(const Boards& boards, uint64_t generation, const PlanOptions& options,
              std::shared_ptr<StepStatistics> statistics);

  // Looks at the next step once; never waits. kStep: a verdict was reached (wake the ranks), kOver:
  // the generation is over and nothing will come any more.
  Progress Poll();

  // Any thread. 0 while the gate is closed.
  uint64_t next_sequence() const { return next_.load(std::memory_order_relaxed); }

 private:
  using Reason = StepStatistics::Reason;

  Progress Advance();  // to the next step
  bool CollectRows(uint64_t sequence);
  void Decide(uint64_t sequence);
  std::optional<Reason> CheckRows(uint64_t sequence);

  const Boards boards_;
  const uint64_t generation_;
  const PlanOptions options_;

  const std::shared_ptr<StepStatistics> statistics_;

  bool started_ = false;
  std::atomic<uint64_t> next_{0};
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
};

}  // namespace ultraep

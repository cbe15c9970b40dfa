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
  // Counts the step that the last Poll decided, if any; the next Poll would do so as well. Apart,
  // since ranks that sleep are woken first.
  void Account();

  // Any thread. 0 while the gate is closed.
  uint64_t next_sequence() const { return next_.load(std::memory_order_relaxed); }

 private:
  using Reason = FallbackReason;

  Progress Advance();  // to the next step
  bool CollectRows(uint64_t sequence);
  void Decide(uint64_t sequence);
  std::optional<Reason> CheckRows(uint64_t sequence);
  void FillRecord(uint64_t sequence, uint64_t solve_ns, LoadView load);
  // What the rows that were seen say of the step.
  StepVerdict StepOf(uint64_t sequence, EventKind kind, Reason reason) const;

  const Boards boards_;
  const uint64_t generation_;
  const PlanOptions options_;

  const std::shared_ptr<StepStatistics> statistics_;
  StepOutcome outcome_;  // of the last Poll; time 0: none, or counted

  bool started_ = false;
  std::atomic<uint64_t> next_{0};
  uint32_t copied_ = 0;  // rows of step next_ that are private already
  uint32_t first_ = 0;   // whose row was the first
  uint64_t first_ns_ = 0;  // when it was seen
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

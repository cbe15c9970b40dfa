// The books of rule 6 for one generation: streams, restores and reductions are numbered in the
// order in which this rank issues them, and who used a slot set, or a slot's gradient, last.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "kernels/operation.h"
#include "plugin/core/result.h"
#include "protocol/boards.h"
#include "protocol/rank_statistics.h"

namespace ultraep {

// Any thread.
class OperationBook {
 public:
  // board: this rank's own.
  OperationBook(const GroupConfig& config, RankBoard* board);

  // Held while an operation is checked, numbered and published: words rise in the numbers' order.
  std::unique_lock<std::mutex> Issuing() { return std::unique_lock(issuing_); }

  // May the set's slots be taken for a stream of that step?
  Result CheckStream(uint64_t sequence, bool restore, uint32_t set) const;
  // Issues it: its number. The set is in use.
  uint64_t IssueStream(uint64_t sequence, bool restore, uint32_t set);
  void Release(uint32_t set);
  uint64_t IssueReduction(uint64_t sequence, uint32_t set);

  // The reduction that used a slot's gradient last, and the home that takes it. number 0: none.
  struct GradientUse {
    uint64_t number = 0;
    uint32_t home = 0;
  };
  GradientUse last_use(uint32_t set, uint32_t slot) const;
  void Use(uint32_t set, uint32_t slot, GradientUse use);

  // What this rank's board says of its steps and transfers, for people; any thread counts.
  RankStatistics& statistics() { return board_->statistics; }
  void Count(const TransferTotals& more);

 private:
  const uint32_t slots_;
  RankBoard* const board_;
  std::mutex issuing_;
  mutable std::mutex mutex_;   // guards what follows
  OperationHistory history_;   // of operations on any slot set
  uint64_t next_forward_ = 0;  // sequence + 1 of the last forward stream
  struct SetUse {
    uint64_t sequence = 0;
    bool released = true;
  };
  std::vector<SetUse> sets_;            // [slot set]: by the last stream issued
  std::vector<GradientUse> gradients_;  // [slot set][slot]
};

}  // namespace ultraep

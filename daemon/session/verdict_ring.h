// The last verdicts of a group's steps, for people: written by the planner without a lock or a
// wait, read by anybody. A reader that is overtaken misses what was overwritten, and is told how
// many.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "protocol/operator_messages.h"
#include "protocol/plan.h"

namespace ultraep {

// How one step was decided. Certificate and solve_ns: of a plan, zero for a fallback.
struct StepVerdict {
  uint64_t time_ns = 0;  // CLOCK_REALTIME
  uint64_t generation = 0;
  uint64_t sequence = 0;
  uint32_t layer = 0;  // UINT32_MAX: no row was seen
  uint32_t microbatch = 0;
  EventKind kind = EventKind::kPlan;  // or kFallback
  FallbackReason reason = FallbackReason::kNone;
  uint32_t replicas = 0;
  Certificate certificate;
  uint64_t solve_ns = 0;
};

class VerdictRing {
 public:
  // capacity: verdicts that are kept.
  explicit VerdictRing(size_t capacity)
      : capacity_(capacity), cells_(std::make_unique<Cell[]>(capacity)) {}

  // One thread. A cell's stamp is odd while it is written. Every word is a release: who has seen a
  // new word sees the odd stamp as well.
  void Push(const StepVerdict& verdict) {
    const uint64_t index = pushed_.load(std::memory_order_relaxed);
    Cell& cell = cells_[index % capacity_];
    uint64_t words[kWords];
    std::memcpy(words, &verdict, sizeof verdict);
    cell.stamp.store(2 * index + 1, std::memory_order_relaxed);
    for (size_t i = 0; i < kWords; ++i) cell.words[i].store(words[i], std::memory_order_release);
    cell.stamp.store(2 * index + 2, std::memory_order_release);
    pushed_.store(index + 1, std::memory_order_release);
  }

  // Any thread. Pushed in its life.
  uint64_t pushed() const { return pushed_.load(std::memory_order_acquire); }
  // Appends those from *cursor on, at most `most`, and moves the cursor behind them. Returns how
  // many had been overwritten.
  uint64_t Read(uint64_t* cursor, size_t most, std::vector<StepVerdict>* verdicts) const {
    const uint64_t end = pushed();
    const uint64_t oldest = end > capacity_ ? end - capacity_ : 0;
    uint64_t missed = oldest > *cursor ? oldest - *cursor : 0;
    *cursor += missed;
    for (; *cursor < end && most > 0; ++*cursor) {
      StepVerdict verdict;
      if (ReadCell(*cursor, &verdict)) {
        verdicts->push_back(verdict);
        --most;
      } else {
        ++missed;
      }
    }
    return missed;
  }
  // False when there was none.
  bool Last(StepVerdict* verdict) const {
    for (;;) {
      const uint64_t end = pushed();
      if (end == 0) return false;
      if (ReadCell(end - 1, verdict)) return true;
    }
  }

 private:
  static constexpr size_t kWords = sizeof(StepVerdict) / 8;
  static_assert(sizeof(StepVerdict) % 8 == 0);
  struct Cell {
    std::atomic<uint64_t> stamp{0};
    std::atomic<uint64_t> words[kWords] = {};
  };

  bool ReadCell(uint64_t index, StepVerdict* verdict) const {
    const Cell& cell = cells_[index % capacity_];
    if (cell.stamp.load(std::memory_order_acquire) != 2 * index + 2) return false;
    uint64_t words[kWords];
    for (size_t i = 0; i < kWords; ++i) words[i] = cell.words[i].load(std::memory_order_acquire);
    if (cell.stamp.load(std::memory_order_relaxed) != 2 * index + 2) return false;
    std::memcpy(static_cast<void*>(verdict), words, sizeof *verdict);
    return true;
  }

  const size_t capacity_;
  const std::unique_ptr<Cell[]> cells_;
  std::atomic<uint64_t> pushed_{0};
};

}  // namespace ultraep

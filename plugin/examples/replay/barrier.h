// A barrier between processes, in shared memory, that is passed by all or by none: it can be left
// early, when the run's epoch moves on or the others do not come in time, and a process may be
// killed at any instruction.
#pragma once

#include <atomic>
#include <cstdint>

#include "protocol/words.h"

namespace ultraep::replay {

enum class Arrival { kAll, kInterrupted, kTimeout };

// All zero is a fresh barrier. One word, so that no death leaves it half changed:
//
//    31       12     11      10       0
//   +-----------+--------+-------------+
//   |   round   | broken |   arrived   |
//   +-----------+--------+-------------+
//
// The last one in starts the next round. Who leaves early breaks the round first, and finds out
// whether it was complete: nobody completes a broken one.
struct Barrier {
  static constexpr uint32_t kBroken = 1 << 11;
  static constexpr uint32_t kRound = 1 << 12;

  Pulse state;

  // Waits until `members` (below 2048) processes have come. The wait ends when `epoch` is no longer
  // `mine`. After kInterrupted or kTimeout nobody passes until Reset.
  Arrival Wait(uint32_t members, const std::atomic<uint32_t>& epoch, uint32_t mine,
               uint64_t timeout_ns);
  // Only while nobody is inside.
  void Reset() { state.count.store(0, std::memory_order_release); }
  // Lets the sleepers look at the epoch.
  void WakeAll();

 private:
  bool Break(uint32_t round);
};

// Sleeps on a word that other processes change, at most 100 ms: a wake that gets lost with its
// sender costs this much, never the run.
void SleepWhile(const Pulse& pulse, uint32_t value, uint64_t longest_ns);

}  // namespace ultraep::replay

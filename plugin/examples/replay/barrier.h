// A barrier between processes, in shared memory. It can be left early: when somebody raises the
// abort word or when the others do not come in time.
#pragma once

#include <atomic>
#include <cstdint>

#include "protocol/words.h"

namespace ultraep::replay {

enum class Arrival { kAll, kAborted, kTimeout };

// All zero is a fresh barrier. `round` is a futex word: 32 bits, moved only by the last one in.
struct Barrier {
  Pulse arrived;
  Pulse round;

  // Waits until `members` processes have come. `abort` non-zero ends the wait. Not usable again
  // after kAborted or kTimeout.
  Arrival Wait(uint32_t members, const std::atomic<uint32_t>& abort, uint64_t timeout_ns);
  // Lets the sleepers look at the abort word.
  void WakeAll();
};

uint64_t MonotonicNs();

}  // namespace ultraep::replay

// Where the ranks of a run wait for each other, and how the run goes on when one of them dies.
//
// The run lives in epochs, one word for all:
//
//   even    steps run
//   odd     interrupted: every rank leaves its step, which is lost, and comes to the meeting
//   kEnd    the run is over
//
// The parent interrupts when it has reaped a killed rank, a rank when it got ULTRAEP_FAILED. The
// parent starts a new process in a dead one's place. When all have come, the survivors and the new
// ones, nobody is inside a step; the parent then resets what a death may have left behind and opens
// the next epoch, which names the sequence to go on with.
//
// Every rank lives through every epoch: one that was asleep while an epoch was opened and
// interrupted again still begins its first step. With a barrier that all or none pass, all
// survivors have begun the same steps; so the sequences that a rank submits rise by one.
#pragma once

#include <atomic>
#include <cstdint>

#include "plugin/examples/replay/barrier.h"
#include "protocol/limits.h"
#include "protocol/words.h"

namespace ultraep::replay {

// All zero is a fresh run in epoch 0, which nobody has to come to a meeting for.
struct Meeting {
  static constexpr uint32_t kEnd = UINT32_MAX;

  Pulse epoch;
  Word next_sequence;  // by the parent, before it opens an epoch
  Barrier barrier;
  Pulse came[kMaxRanks];  // the meeting that a rank has come to, kEnd: it is done

  static bool Interrupted(uint32_t epoch) { return epoch % 2 == 1 && epoch != kEnd; }

  // Anybody, any time. Nothing happens when `running` is not the present epoch.
  void Interrupt(uint32_t running);
  void End();

  // A rank, outside any step: comes to the meeting `odd` and waits for its end. False: the run is
  // over.
  bool Attend(uint32_t rank, uint32_t odd);

  // The parent, about a rank that it has reaped.
  void ForgetDead(uint32_t rank) { came[rank].count.store(0, std::memory_order_relaxed); }
  void Excuse(uint32_t rank) { came[rank].count.store(kEnd, std::memory_order_relaxed); }
  // The parent, while interrupted.
  bool IsMissing(uint32_t rank) const;
  void Open(uint64_t sequence);
};

}  // namespace ultraep::replay

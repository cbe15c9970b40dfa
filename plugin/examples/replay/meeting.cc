#include "plugin/examples/replay/meeting.h"

#include "protocol/transport/waiting.h"

namespace ultraep::replay {

void Meeting::Interrupt(uint32_t running) {
  if (running % 2 == 0)
    epoch.count.compare_exchange_strong(running, running + 1, std::memory_order_acq_rel);
  barrier.WakeAll();
  WakeAll(epoch);
}

void Meeting::End() {
  epoch.count.store(kEnd, std::memory_order_release);
  barrier.WakeAll();
  WakeAll(epoch);
}

bool Meeting::Attend(uint32_t rank, uint32_t odd) {
  if (odd == kEnd) return false;
  came[rank].count.store(odd, std::memory_order_release);
  while (epoch.count.load(std::memory_order_acquire) == odd)
    SleepWhile(epoch, odd, UINT64_MAX);
  return epoch.count.load(std::memory_order_acquire) != kEnd;
}

bool Meeting::IsMissing(uint32_t rank) const {
  const uint32_t last = came[rank].count.load(std::memory_order_acquire);
  return last != kEnd && last != epoch.count.load(std::memory_order_acquire);
}

void Meeting::Open(uint64_t sequence) {
  barrier.Reset();
  next_sequence.value.store(sequence, std::memory_order_relaxed);
  uint32_t odd = epoch.count.load(std::memory_order_relaxed);
  if (!Interrupted(odd)) return;  // a rank has ended the run
  epoch.count.compare_exchange_strong(odd, odd + 1, std::memory_order_acq_rel);
  WakeAll(epoch);
}

}  // namespace ultraep::replay

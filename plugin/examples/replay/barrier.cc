#include "plugin/examples/replay/barrier.h"

#include <algorithm>

#include "protocol/transport/waiting.h"

namespace ultraep::replay {
namespace {

constexpr int kSpins = 4000;  // some 10 us

}  // namespace

Arrival Barrier::Wait(uint32_t members, const std::atomic<uint32_t>& epoch, uint32_t mine,
                      uint64_t timeout_ns) {
  uint32_t seen = state.count.load(std::memory_order_acquire);
  const uint32_t round = seen / kRound;  // stays until this process has come
  for (;;) {
    if (epoch.load(std::memory_order_acquire) != mine) return Arrival::kInterrupted;
    const bool last = seen % kRound + 1 == members;
    const uint32_t next = last ? (round + 1) * kRound : seen + 1;
    if (!state.count.compare_exchange_weak(seen, next, std::memory_order_acq_rel)) continue;
    if (!last) break;
    WakeAll();
    return Arrival::kAll;
  }
  const auto done = [&](uint32_t state) { return state / kRound != round; };
  // Spinning helps only while everybody who is waited for has a CPU of its own.
  static const int spins = AllowedCpus() > members ? kSpins : 0;
  for (int i = 0; i < spins; ++i) {
    if (done(state.count.load(std::memory_order_acquire))) return Arrival::kAll;
  }
  const uint64_t start = NowNs();
  while (!done(seen = state.count.load(std::memory_order_acquire))) {
    const uint64_t waited = NowNs() - start;
    const bool interrupted = epoch.load(std::memory_order_acquire) != mine;
    if (!interrupted && waited < timeout_ns)
      SleepWhile(state, seen, timeout_ns - waited);
    else if (Break(round))
      return interrupted ? Arrival::kInterrupted : Arrival::kTimeout;
  }
  return Arrival::kAll;
}

// False when the round was complete before.
bool Barrier::Break(uint32_t round) {
  uint32_t seen = state.count.load(std::memory_order_acquire);
  while (seen / kRound == round) {
    if (state.count.compare_exchange_weak(seen, seen | kBroken, std::memory_order_acq_rel))
      return true;
  }
  return false;
}

void Barrier::WakeAll() { ultraep::WakeAll(state); }

void SleepWhile(const Pulse& pulse, uint32_t value, uint64_t longest_ns) {
  SleepOn(pulse, value, NowNs() + std::min(longest_ns, kHeartbeatNs));
}

}  // namespace ultraep::replay

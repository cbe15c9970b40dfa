#include "plugin/examples/replay/barrier.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

namespace ultraep::replay {
namespace {

constexpr uint64_t kLongestSleepNs = 100'000'000;
constexpr int kSpins = 4000;  // some 10 us

// Shared futex: without the private flag, which std::atomic::wait would set.
long Futex(const std::atomic<uint32_t>& word, int operation, uint32_t value,
           const timespec* timeout) {
  return syscall(SYS_futex, &word, operation, value, timeout, nullptr, 0);
}

// Spinning helps only while everybody who is waited for has a CPU of its own.
int SpinsFor(uint32_t members) {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) return 0;
  return static_cast<uint32_t>(CPU_COUNT(&cpus)) > members ? kSpins : 0;
}

}  // namespace

uint64_t MonotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

void SleepWhile(const std::atomic<uint32_t>& word, uint32_t value, uint64_t longest_ns) {
  const timespec relative = {0, long(std::min(longest_ns, kLongestSleepNs))};
  Futex(word, FUTEX_WAIT, value, &relative);
}

void WakeSleepers(const std::atomic<uint32_t>& word) { Futex(word, FUTEX_WAKE, INT_MAX, nullptr); }

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
  static const int spins = SpinsFor(members);
  for (int i = 0; i < spins; ++i) {
    if (done(state.count.load(std::memory_order_acquire))) return Arrival::kAll;
  }
  const uint64_t start = MonotonicNs();
  while (!done(seen = state.count.load(std::memory_order_acquire))) {
    const uint64_t waited = MonotonicNs() - start;
    const bool interrupted = epoch.load(std::memory_order_acquire) != mine;
    if (!interrupted && waited < timeout_ns)
      SleepWhile(state.count, seen, timeout_ns - waited);
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

void Barrier::WakeAll() { WakeSleepers(state.count); }

}  // namespace ultraep::replay

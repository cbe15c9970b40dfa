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

// Longest sleep: a wake that gets lost costs this much, never the run.
constexpr uint64_t kLongestSleepNs = 100'000'000;
constexpr int kSpins = 4000;  // some 10 us

// Shared futex: without the private flag, which std::atomic::wait would set.
long Futex(std::atomic<uint32_t>* word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, word, operation, value, timeout, nullptr, 0);
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

Arrival Barrier::Wait(uint32_t members, const std::atomic<uint32_t>& abort, uint64_t timeout_ns) {
  const uint32_t mine = round.count.load(std::memory_order_acquire);
  if (abort.load(std::memory_order_acquire)) return Arrival::kAborted;
  if (arrived.count.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
    arrived.count.store(0, std::memory_order_relaxed);
    round.count.fetch_add(1, std::memory_order_release);
    WakeAll();
    return Arrival::kAll;
  }
  const auto done = [&] { return round.count.load(std::memory_order_acquire) != mine; };
  static const int spins = SpinsFor(members);
  for (int i = 0; i < spins; ++i) {
    if (done()) return Arrival::kAll;
  }
  const uint64_t start = MonotonicNs();
  while (!done()) {
    if (abort.load(std::memory_order_acquire)) return Arrival::kAborted;
    const uint64_t waited = MonotonicNs() - start;
    if (waited >= timeout_ns) return Arrival::kTimeout;
    const uint64_t sleep = std::min(timeout_ns - waited, kLongestSleepNs);
    const timespec relative = {time_t(sleep / 1'000'000'000), long(sleep % 1'000'000'000)};
    Futex(&round.count, FUTEX_WAIT, mine, &relative);
  }
  return Arrival::kAll;
}

void Barrier::WakeAll() { Futex(&round.count, FUTEX_WAKE, INT_MAX, nullptr); }

}  // namespace ultraep::replay

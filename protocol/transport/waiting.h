// Waiting across processes: spin for a budget, then sleep on a futex word until an absolute
// monotonic deadline. std::atomic::wait must not be used: libstdc++ waits on private futexes.
#pragma once

#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

#include "protocol/lease.h"
#include "protocol/test_points.h"
#include "protocol/words.h"

namespace ultraep {

inline uint64_t NowNs() {
#if defined(ULTRAEP_TEST_POINTS) && !defined(__CUDACC__)
  if (test::world) return test::world->Now();
#endif
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000u + uint64_t(t.tv_nsec);
}

// CLOCK_REALTIME, for people: nothing is decided by it.
inline uint64_t WallNs() {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000u + uint64_t(t.tv_nsec);
}

// Deadlines saturate instead of wrapping.
inline uint64_t DeadlineAfter(uint64_t now, uint64_t ns) {
  return now + ns < now ? UINT64_MAX : now + ns;
}

inline unsigned AllowedCpus() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set)) return 1;
  const int n = CPU_COUNT(&set);
  return n < 1 ? 1 : unsigned(n);
}

// Spinning helps only when every spinner and the one it waits for have a CPU each.
inline uint64_t DefaultSpinNs(uint32_t local_ranks) {
  return AllowedCpus() > local_ranks ? 50'000 : 0;
}

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleeps while the pulse still shows `seen`, at most until `deadline_ns` (CLOCK_MONOTONIC).
inline void SleepOn(const Pulse& pulse, uint32_t seen, uint64_t deadline_ns) {
#if defined(ULTRAEP_TEST_POINTS) && !defined(__CUDACC__)
  if (test::world) return test::world->SleepUntil(deadline_ns);
#endif
  timespec until;
  until.tv_sec = time_t(deadline_ns / 1'000'000'000u);
  until.tv_nsec = long(deadline_ns % 1'000'000'000u);
  syscall(SYS_futex, &pulse.count, FUTEX_WAIT_BITSET, seen, &until, nullptr,
          FUTEX_BITSET_MATCH_ANY);
}

inline void WakeAll(const Pulse& pulse) {
  syscall(SYS_futex, &pulse.count, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// Raises the pulse so that nobody who checked before goes to sleep, then wakes.
inline void PulseAndWake(Pulse& pulse) {
  ULTRAEP_POINT("pulse:before");
  pulse.count.fetch_add(1, std::memory_order_seq_cst);
  ULTRAEP_POINT("pulse:raised");
  WakeAll(pulse);
}

// poll() until something is readable (true) or the deadline. Interrupted waits go on.
inline bool PollUntil(pollfd* wait, nfds_t count, uint64_t deadline_ns) {
  for (;;) {
    const uint64_t now = NowNs();
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
#if defined(ULTRAEP_TEST_POINTS) && !defined(__CUDACC__)
    if (test::world) left = 0;
#endif
    const timespec limit{time_t(left / 1'000'000'000u), long(left % 1'000'000'000u)};
    if (ppoll(wait, count, &limit, nullptr) > 0) return true;
    if (now >= deadline_ns) return false;
#if defined(ULTRAEP_TEST_POINTS) && !defined(__CUDACC__)
    if (test::world) test::world->SleepUntil(deadline_ns);
#endif
  }
}

// Waits until `done()` or the deadline; true when done. Wakes at least once per heartbeat period,
// and `done` may also be a clock. `sleeping`, when given, counts the sleepers of this process:
// raised before the last check, so that whoever makes `done` true and then reads it wakes them. A
// killed sleeper leaves it raised, which costs a needless wake.
template <class Done>
bool WaitFor(const Pulse& pulse, Word* sleeping, uint64_t spin_ns, uint64_t deadline_ns,
             Done done) {
  if (done()) return true;
  const uint64_t start = NowNs();
  for (uint64_t now = start; now - start < spin_ns && now < deadline_ns; now = NowNs()) {
    for (int i = 0; i < 32; ++i) CpuRelax();
    if (done()) return true;
  }
  for (;;) {
    ULTRAEP_POINT("sleep:before");
    if (sleeping) sleeping->value.fetch_add(1, std::memory_order_seq_cst);
    ULTRAEP_POINT("sleep:flag");
    const uint32_t seen = pulse.count.load(std::memory_order_seq_cst);
    const bool ready = done();
    const uint64_t now = NowNs();
    if (!ready && now < deadline_ns) {
      const uint64_t period = DeadlineAfter(now, kHeartbeatNs);
      SleepOn(pulse, seen, period < deadline_ns ? period : deadline_ns);
    }
    if (sleeping) sleeping->value.fetch_sub(1, std::memory_order_relaxed);
    if (ready) return true;
    if (now >= deadline_ns) return done();
  }
}

}  // namespace ultraep

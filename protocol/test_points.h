// Named instants beside every store into shared memory, where tests stop a process for good; and
// the world a simulation puts in place of clock and sleep. Compiled out unless ULTRAEP_TEST_POINTS
// is defined: a release binary holds nothing of it.
//
//   ULTRAEP_KILL_AT=NAME:N   environment: the process kills itself (SIGKILL) when it passes point
//                            NAME for the N-th time; "*" is any point
#pragma once

#if defined(ULTRAEP_TEST_POINTS) && !defined(__CUDACC__)

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

namespace ultraep::test {

// What a simulated process asks instead of the system. One per simulation, set for its thread.
class World {
 public:
  virtual ~World() = default;
  virtual void Point(const char* name) = 0;
  virtual uint64_t Now() = 0;
  // Lets others run; returns at the deadline or earlier.
  virtual void SleepUntil(uint64_t deadline_ns) = 0;
  virtual uint64_t Random() = 0;
};
inline thread_local World* world = nullptr;

// Counts down to a process's own end. Set from the environment, or by a test after fork.
struct KillAt {
  std::string name;
  std::atomic<int64_t> left{0};  // 0: never

  void Set(const std::string& point, int64_t passes) {
    name = point;
    left = passes;
  }
  void Pass(const char* point) {
    if (left.load(std::memory_order_relaxed) <= 0) return;
    if (name != "*" && name != point) return;
    if (left.fetch_sub(1, std::memory_order_relaxed) == 1) kill(getpid(), SIGKILL);
  }
};

inline KillAt& TheKill() {
  static KillAt* const one = [] {
    auto* made = new KillAt;
    const char* wanted = std::getenv("ULTRAEP_KILL_AT");
    const char* colon = wanted ? std::strrchr(wanted, ':') : nullptr;
    if (colon) made->Set(std::string(wanted, colon), std::atoll(colon + 1));
    return made;
  }();
  return *one;
}

inline void PassPoint(const char* name) {
  if (world)
    world->Point(name);
  else
    TheKill().Pass(name);
}

}  // namespace ultraep::test

#define ULTRAEP_POINT(name) ::ultraep::test::PassPoint(name)

#else

#define ULTRAEP_POINT(name) ((void)0)

#endif  // ULTRAEP_TEST_POINTS

// The simulated machine: processes of a few threads each, one virtual clock, and a scheduler that
// the seed drives. Product code runs here unchanged; wherever it passes a named point, sleeps,
// polls, waits for events or for a mutex, the scheduler decides who goes on (see system_calls.cc).
#pragma once

#include <poll.h>
#include <pthread.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "protocol/digest.h"
#include "protocol/test_points.h"
#include "tests/simulation/fiber.h"
#include "tests/support/random.h"

namespace ultraep::simulation {

inline constexpr uint64_t kForever = UINT64_MAX;
inline constexpr uint64_t kMicrosecond = 1'000, kMillisecond = 1'000'000, kSecond = 1'000'000'000;

// Thrown out of every wait and every point of a killed process, so that its stacks unwind. The point
// stands before the store: what is killed there writes nothing more.
struct Killed {};

class Process;

struct Thread {
  Thread(Process* its, std::string its_name, std::function<void()> body)
      : process(its), name(std::move(its_name)), fiber(std::move(body)) {}

  Process* const process;
  const std::string name;
  Fiber fiber;
  bool asleep = false;
  bool woken = false;                // before its time
  uint64_t wake_at = 0;              // while asleep
  std::vector<pollfd> watched;       // what wakes it besides the time; none: a pulse
  pthread_mutex_t* mutex = nullptr;  // it waits for this one
  uint64_t stopped_until = 0;
  uint32_t weight = 1;               // how eagerly it is run
};

// Subclasses hold the product's objects. Killing it unwinds the threads; destroying it then closes
// its sockets and unmaps its memory, as the kernel would.
class Process {
 public:
  explicit Process(std::string its_name) : name(std::move(its_name)) {}
  virtual ~Process() = default;

  bool ended() const {
    for (const auto& t : threads)
      if (!t->fiber.done()) return false;
    return true;
  }

  const std::string name;
  std::vector<std::unique_ptr<Thread>> threads;
  bool dying = false;
  uint64_t stopped_until = 0;
};

// Sees everything the scheduler sees, at that moment, while nobody runs.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void Passed(Thread* thread, const char* point) = 0;
  virtual void Suspended(Thread* thread) = 0;
};

struct WorldOptions {
  uint64_t seed = 0;
  bool trace = false;
  uint64_t point_cost_ns = 0;      // at most, per scheduling step
  uint32_t switch_percent = 100;   // how often another thread than the last one is taken
  uint32_t lost_wakes = 0;         // per 1024
};

class World : public test::World {
 public:
  explicit World(const WorldOptions& options);
  ~World() override;
  // The one that runs, and only while one of its threads does.
  static World* Running() { return running_ && running_->current_ ? running_ : nullptr; }

  // For product code, through test::world.
  void Point(const char* name) override;
  uint64_t Now() override;
  void SleepUntil(uint64_t deadline_ns) override;
  uint64_t Random() override { return random_.Next(); }

  // For product code, through system_calls.cc.
  void WillWaitFor(const pollfd* fds, size_t count);
  void Lock(pthread_mutex_t* mutex);

  void Start(Process* process, const char* name, std::function<void()> body);
  // The process writes nothing from here on; its owner then destroys it.
  void Kill(Process* process);
  // SIGSTOP until that time, to all of it or to one thread.
  void Stop(Process* process, uint64_t until);
  void Stop(Thread* thread, uint64_t until);
  void Forget(Process* process);

  // One scheduling step; when all sleep the clock moves on, at most to `alarm`.
  void Step(uint64_t alarm);
  void Jump(uint64_t ns) { now_ += ns; }
  uint64_t now() const { return now_; }
  uint64_t Below(uint64_t n) { return random_.Below(n); }
  bool Chance(uint64_t in_1024) { return random_.Below(1024) < in_1024; }
  uint64_t steps() const { return steps_; }
  Thread* last() const { return last_; }

  // One line of the trace; `thread` may be null.
  void Note(const Thread* thread, const char* what, uint64_t value = 0);
  uint64_t digest() const { return digest_.value(); }
  std::string Tail() const;

  Observer* observer = nullptr;

 private:
  struct Event {
    uint64_t at;
    std::string who;
    const char* what;
    uint64_t value;
  };

  bool Stopped(const Thread& t) const {
    return t.stopped_until > now_ || t.process->stopped_until > now_;
  }
  bool Eligible(const Thread& t) const;
  void WakePolled();
  void WakeSleepers();
  Thread* Choose();
  void Advance(uint64_t alarm);
  void Run(Thread* thread);
  void Suspend();
  void ThrowIfKilled() const;
  static std::string Line(const Event& event);

  static World* running_;
  const WorldOptions options_;
  test::Random random_;
  uint64_t now_ = 10 * kSecond;
  uint64_t steps_ = 0;
  std::vector<Process*> processes_;
  Thread* current_ = nullptr;
  Thread* last_ = nullptr;
  std::vector<Thread*> eligible_;  // scratch
  std::vector<pollfd> polled_;     // scratch
  std::vector<Thread*> pollers_;   // scratch
  std::deque<Event> tail_;
  Digest digest_;
};

}  // namespace ultraep::simulation

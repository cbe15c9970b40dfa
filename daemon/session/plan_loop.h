// The planner thread: looks at every generation's next step, spins while steps come fast, sleeps on the
// groups' doorbells otherwise. Woken by plugins.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/session/group_generation.h"
#include "daemon/session/waker.h"

namespace ultraep {

class PlanLoop {
 public:
  // spin_us < 0: from the number of allowed CPUs and ranks.
  PlanLoop(Waker* waker, int64_t spin_us);

  // The body of the thread; returns after Stop.
  void Run();
  void Stop();
  // Any thread.
  void Add(std::shared_ptr<GroupGeneration> generation);
  void Remove(const GroupGeneration* generation);
  uint64_t spin_ns() const { return spin_ns_.load(std::memory_order_relaxed); }
  // Rounds of the thread so far; Ping makes it do one more, unless it is stuck.
  uint64_t rounds() const { return rounds_.load(std::memory_order_relaxed); }
  void Ping();

 private:
  void TakeChanges();
  bool PollAll(uint64_t now);
  void Sleep();

  Waker* const waker_;
  const int64_t spin_us_;
  std::atomic<uint64_t> spin_ns_{0};
  Descriptor epoll_, control_;
  std::atomic<bool> stopped_{false};
  std::atomic<uint64_t> rounds_{0};

  std::mutex mutex_;  // guards wanted_
  std::vector<std::shared_ptr<GroupGeneration>> wanted_;
  std::atomic<uint64_t> version_{0};

  // The thread's own.
  std::vector<std::shared_ptr<GroupGeneration>> generations_;
  uint64_t seen_version_ = 0;
};

}  // namespace ultraep

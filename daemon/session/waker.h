// The waker thread: wakes sleeping ranks, so that the planner never pays a system call per sleeper
// (some 10 us each).
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/session/group_generation.h"

namespace ultraep {

class Waker {
 public:
  // The body of the thread; returns after Stop.
  void Run();
  void Stop();
  // Any thread. The group stays alive until its ranks are awake.
  void Wake(std::shared_ptr<GroupGeneration> generation);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<GroupGeneration>> waiting_;
  bool stopped_ = false;
};

}  // namespace ultraep

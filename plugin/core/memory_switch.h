// Which generation's memory the operations of this rank use (rule 8): the newest one it belongs to
// whose first step s0 is not above the step loaded last, also when that generation is over by then.
// All ranks load the same steps in the same order, so all switch at the same step.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "plugin/core/generation.h"

namespace ultraep {

// Any thread.
class MemorySwitch {
 public:
  // The rank belongs to it from now on.
  void Add(std::shared_ptr<Generation> generation);
  // load(s) has passed the gate: operations issued from now on use what it returns, current().
  std::shared_ptr<Generation> Load(uint64_t sequence);
  // Null before the first switch.
  std::shared_ptr<Generation> current() const;
  // Those whose memory may still be used, also by an operation begun before a switch; oldest first.
  std::vector<std::shared_ptr<Generation>> held() const;
  // Unmaps what is left behind or will never be switched to, once its operations are done: takes
  // long for many GiB, so the link's thread does it.
  void FreeLeftBehind();
  // The rank has left: nothing is issued any more.
  void Clear();

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Generation> current_;
  std::vector<std::shared_ptr<Generation>> later_;  // adopted after current_, oldest first
  // Until no operation uses them any more.
  std::vector<std::shared_ptr<Generation>> left_behind_;
};

}  // namespace ultraep

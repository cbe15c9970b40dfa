// The thread between a rank's kernels and its group: takes rows out of the mailbox, passes them
// through the same steps as a rank on host memory (steps.h: gate, promise, window, both clocks),
// and brings back verdicts with their images. Tells kernels who is gone and when to stop, and the
// group when a kernel could not follow. Calls nothing of CUDA: whatever the driver blocks on,
// verdicts go on.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/route_tokens.h"
#include "plugin/core/device/step_memory.h"
#include "plugin/core/steps.h"

namespace ultraep {

class Carrier {
 public:
  // teams: blocks of a stream. spin_ns: how long it looks for the next row or verdict before it
  // sleeps; 0: it always sleeps in between.
  Carrier(const GroupConfig& config, uint32_t rank, uint32_t teams, uint64_t spin_ns, Steps* steps,
          std::shared_ptr<StepMemory> memory);
  ~Carrier() { Stop(); }

  void Start();
  // Ends the generation; returns once every step that was submitted has its verdict. Later ones are
  // declined.
  void Leave();
  // Every wait of a kernel ends, then the thread.
  void Stop();
  // This rank cannot follow: its present generation fails. Any thread.
  void Fail(std::string why);
  // FAILED when anything was lost since the last time it was asked: why, as far as is known. Sees
  // all that kernels noted before the call. Any thread.
  Result Check();

 private:
  void Run();
  bool TakeRow();
  // Waits for the verdict of the oldest open step until then, at most.
  bool GiveVerdict(uint64_t timeout_ns);
  void Submit(const MailboxRow& row, bool faulty);
  void TakeFailure();
  void Watch();
  void CountTotals();
  void Sleep(uint64_t now, uint64_t active);
  void Say(std::string failure);
  bool stopping() const { return stopping_.load(std::memory_order_relaxed); }

  // A step between its row and its verdict.
  struct Open {
    std::shared_ptr<Generation> generation;  // whose slots operations use from it on
    bool failed = false;
  };

  const GroupConfig config_;
  const uint32_t rank_, teams_;
  const uint64_t spin_ns_;
  Steps* const steps_;
  const std::shared_ptr<StepMemory> memory_;
  uint64_t next_, resolved_;
  std::vector<Open> open_;     // [window]
  std::vector<uint32_t> row_;  // scratch
  TokenRouter router_;         // scratch
  TransferTotals counted_;     // of the mailbox's
  // Whose memory kernels may still work on, by its index.
  std::shared_ptr<Generation> held_[kMemories];
  uint32_t current_ = kMemories;
  uint64_t switched_ = 0;  // the step whose verdict named it first
  std::atomic<bool> stopping_{false}, leaving_{false};
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool left_ = false;
  std::string failures_;  // not told yet
  // Of the present memory and the one before: whoever asks looks at their gates as well.
  std::weak_ptr<Generation> shown_[2];
  std::string last_;      // what was told last
  uint64_t told_lost_ = 0;
  std::thread thread_;
};

}  // namespace ultraep

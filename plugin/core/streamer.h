// The stream thread of a generation: sends this rank's transfers, operation by operation, and keeps
// the books of rule 6 (operation numbers, `accepts` words).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/stream_weights.h"
#include "plugin/core/generation.h"
#include "plugin/core/result.h"
#include "protocol/digest.h"
#include "protocol/plan_record.h"

namespace ultraep {

// One stream as this rank sees it; kept by its plan and by the stream thread.
struct Stream {
  StreamOperation operation;
  std::vector<Replica> replicas;
  std::vector<const void*> mains;
  StreamTally tally;
  // Guarded by the streamer's mutex:
  bool sent = false;
  std::string failure;  // why the sends stopped
  bool released = false;
};

class Streamer {
 public:
  explicit Streamer(Generation* generation);
  ~Streamer();

  // Issues an operation: accepts it for this rank's slots and queues this rank's sends. Forward
  // streams go in the order of their steps, a restore is a later stream of the same plan; all
  // operations are issued in one order on all ranks. Refuses a slot set whose last operation is not
  // released.
  Result Start(const RecordedPlan& plan, bool restore, uint32_t set, const void* const* mains,
               std::shared_ptr<Stream>* stream);
  // Until this rank's slots are complete.
  Result AwaitArrival(const Stream& stream, uint64_t timeout_ns) {
    return AwaitArrival(stream, timeout_ns, timeout_ns >= generation_->clocks.step_timeout_ns);
  }
  // Until this rank's own sends are done and its own slots are complete: a transfer that is still
  // under way would land in the next operation. Then the slot set is free for the next one.
  Result Release(Stream* stream, uint64_t timeout_ns);
  // What this rank sent; complete once released.
  StreamTally Tally(const Stream& stream);

 private:
  class Waits;

  // give_up: at the end of the time this rank cannot follow.
  Result AwaitArrival(const Stream& stream, uint64_t timeout_ns, bool give_up);
  void Run();
  Result Fail(std::string text);
  Result Tell(Result result);
  int64_t GoneUpstream(const StreamOperation& op, uint32_t transfer) const;
  std::string WhatIsMissing(const StreamOperation& op, uint32_t transfer) const;

  Generation* const generation_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Stream>> queue_;
  uint64_t count_ = 0;         // operations issued on any slot set
  Digest history_;             // which they were
  uint64_t next_forward_ = 0;  // sequence + 1 of the last forward stream
  struct Use {
    uint64_t sequence = 0;
    bool released = true;
  };
  std::vector<Use> uses_;  // [slot set]: by the last operation issued
  std::atomic<bool> stopped_{false};
  std::thread thread_;  // started with the first operation
};

}  // namespace ultraep

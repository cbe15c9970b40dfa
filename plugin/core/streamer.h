// The stream thread of a generation: sends this rank's transfers, operation by operation, and keeps
// the books of rule 6 (operation numbers, released words).
#pragma once

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
#include "protocol/plan_record.h"

namespace ultraep {

// One forward stream as this rank sees it; kept by its plan and by the stream thread.
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

  // Queues the sends of the plan of step `sequence`. Streams go in the order of their steps, on
  // every rank; refuses a slot set whose last operation is not released.
  Result Start(const RecordedPlan& plan, uint32_t set, const void* const* mains,
               std::shared_ptr<Stream>* stream);
  // Until this rank's slots are complete.
  Result AwaitArrival(const Stream& stream, uint64_t timeout_ns);
  // Until this rank's own sends are done and its own slots are complete: a transfer that is still
  // under way would land in the next operation. Then publishes `released`.
  Result Release(Stream* stream, uint64_t timeout_ns);
  // A plan that this rank will not stream: it cannot follow (rule 3).
  void Abandon(const RecordedPlan& plan);
  // Once released: what this rank sent.
  Result Tally(const Stream& stream, StreamTally* tally);

 private:
  class Waits;

  void Run();
  Result Fail(std::string text);
  int64_t GoneUpstream(const StreamOperation& op, uint32_t transfer) const;
  std::string WhatIsMissing(const StreamOperation& op, uint32_t transfer) const;

  Generation* const generation_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Stream>> queue_;
  uint64_t last_ = 0;                 // number of the last operation started on any slot set
  std::vector<uint64_t> operations_;  // [slot set]: number of the last one started
  std::vector<uint64_t> released_;    // [slot set]: number of the last one released here
  std::atomic<bool> stopped_{false};
  std::thread thread_;  // started with the first operation
};

}  // namespace ultraep

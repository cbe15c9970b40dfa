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

namespace ultraep {

// One forward stream as this rank sees it; kept by its plan and by the stream thread.
struct Stream {
  StreamOperation operation;
  std::vector<Replica> replicas;
  std::vector<const void*> mains;
  StreamTally tally;
  bool sent = false;      // guarded by the streamer's mutex, as is the next
  std::string failure;    // why the sends stopped
  bool released = false;  // the caller's
};

class Streamer {
 public:
  explicit Streamer(Generation* generation);
  ~Streamer();

  // Numbers the operation and queues its sends. Refuses a slot set whose last operation is not
  // released.
  Result Start(const PlanShape& shape, const std::vector<Replica>& replicas, uint32_t set,
               const void* const* mains, std::shared_ptr<Stream>* stream);
  // Until this rank's slots are complete.
  Result AwaitArrival(const Stream& stream, uint64_t timeout_ns);
  // Until this rank's own sends are done; then publishes `released`.
  Result Release(Stream* stream, uint64_t timeout_ns);

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
  std::vector<uint64_t> operations_;  // [slot set]: number of the last one started
  std::vector<uint64_t> released_;    // [slot set]: number of the last one released here
  std::atomic<bool> stopped_{false};
  std::thread thread_;  // started with the first operation
};

}  // namespace ultraep

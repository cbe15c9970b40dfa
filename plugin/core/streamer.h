// Streams and restores of a generation: issues them (rule 6: `accepts` words), sends this rank's
// transfers, waits for what comes into its own slots.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/stream_weights.h"
#include "plugin/core/operation.h"

namespace ultraep {

class Streamer;

struct Stream final : Operation {
  explicit Stream(Streamer* owner) : streamer(owner) {}
  void Work() override;
  void Finish() override;

  Streamer* const streamer;
  std::vector<const void*> mains;
  std::optional<SendQueue> queue;
  StreamOperation operation;
  std::unique_ptr<std::atomic<uint64_t>[]> done;  // [sends]
  // Of the thread that holds the plan:
  bool prepared = false;  // this rank's slot gradients
  uint64_t prepare_ns = 0;
  // Guarded by the streamer's mutex:
  StreamTally tally;        // of all threads
  uint64_t arrived_ns = 0;  // when this rank saw its slots complete
  bool released = false;
};

class Streamer : public Executor {
 public:
  explicit Streamer(Generation* generation) : Executor(generation, "ultraep-stream") {}
  ~Streamer() { Stop(); }

  // Issues an operation: accepts it for this rank's slots and queues this rank's sends. Forward
  // streams go in the order of their steps, a restore is a later stream of the same plan; all
  // operations are issued in one order on all ranks. Refuses a slot set whose last operation is not
  // released.
  Result Start(const RecordedPlan& plan, bool restore, uint32_t set, const void* const* mains,
               std::shared_ptr<Stream>* stream);
  // Until this rank's slots are complete. At the step timeout since its issue this rank cannot
  // follow.
  Result AwaitArrival(Stream* stream, uint64_t timeout_ns);
  // Until this rank's own sends are done and its own slots are complete: a transfer that is still
  // under way would land in the next operation. Then the slot set is free for the next one.
  Result Release(Stream* stream, uint64_t timeout_ns);
  // What this rank sent; complete once released.
  StreamTally Tally(const Stream& stream);

 private:
  friend struct Stream;
  class Waits;

  void Send(Stream* stream);
  // A rank on the transfer's way from the main copy that is proven gone, or -1.
  int64_t GoneUpstream(const Stream& stream, uint32_t transfer) const;
  std::string WhatIsMissing(const Stream& stream, uint32_t transfer) const;
  void Count(const Stream& stream) const;
};

}  // namespace ultraep

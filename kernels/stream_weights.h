// Sends one rank's share of a plan's weights into remote slots, chunk by chunk, in the plan's
// order; relays forward chunks as they arrive. Rule 6 of the slot protocol: nothing is stored
// before the destination released the slot set's previous operation, data before flag, flags carry
// the operation's number and are never reset.
#pragma once

#include <cstdint>
#include <span>

#include "protocol/boards.h"
#include "protocol/plan.h"

namespace ultraep {

// One forward stream of one slot set, the same on all ranks. Its number is the step's sequence + 1
// rather than a count of calls: a rank that missed a call then blocks loudly instead of filling a
// slot under its neighbour's number.
struct StreamOperation {
  uint64_t number = 0;    // sequence + 1 of its step
  uint64_t previous = 0;  // number of the slot set's operation before it, 0 = none
  uint32_t set = 0;
  PlanShape shape;
  std::span<const Replica> replicas;   // transfer order
  const void* const* mains = nullptr;  // [experts_per_rank][shard_count] of the sending rank
};

struct StreamTally {
  uint64_t bytes = 0;
  uint64_t copy_ns = 0;
  uint64_t wait_ns = 0;
};

// How the caller waits: the algorithm says for what. Both return false when it will never come;
// the stream then stops.
class StreamWaits {
 public:
  virtual ~StreamWaits() = default;
  // Until rank `destination` has released operation `number` of slot set `set`.
  virtual bool Released(uint32_t destination, uint32_t set, uint64_t number) = 0;
  // Until `flag` (of this rank's own slot, the relay's source) shows `number`; `index` is the
  // transfer that fills it.
  virtual bool Chunk(const std::atomic<uint64_t>& flag, uint64_t number, uint32_t index) = 0;
};

// False when a wait failed. Wakes destinations that sleep on their arrivals.
bool SendWeights(const Boards& boards, uint32_t self, const StreamOperation& operation,
                 StreamWaits* waits, StreamTally* tally);

// The first transfer into a slot of `self` that is not complete, or the number of replicas.
uint32_t FirstMissingTransfer(const Boards& boards, uint32_t self,
                              const StreamOperation& operation);

}  // namespace ultraep

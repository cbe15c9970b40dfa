// Sends one rank's share of a plan's weights into remote slots, chunk by chunk, in the plan's
// order; relays forward chunks as they arrive. Rule 6 of the slot protocol: nothing is stored
// before the destination accepts this very operation, data before flag, flags carry the operation's
// number and are never reset.
#pragma once

#include <cstdint>
#include <span>

#include "protocol/boards.h"
#include "protocol/plan.h"

namespace ultraep {

// An operation's number: how many this generation has had, and a digest of which they were. Two
// ranks with equal numbers are in the same operation after the same history; a rank that missed a
// call or made another one has another number, and no store of it ever meets a slot.
class OperationNumber {
 public:
  static constexpr int kDigestBits = 24;

  static uint64_t Make(uint64_t count, uint64_t digest) {
    return count << kDigestBits | (digest & ((1u << kDigestBits) - 1));
  }
  static uint64_t Count(uint64_t number) { return number >> kDigestBits; }
};

// One stream (forward or restore) of one slot set, the same on all ranks.
struct StreamOperation {
  uint64_t number = 0;
  uint64_t sequence = 0;  // the step whose plan it follows
  uint32_t set = 0;
  PlanShape shape;
  std::span<const Replica> replicas;   // transfer order
  const void* const* mains = nullptr;  // [experts_per_rank][shard_count] of the sending rank
};

struct StreamTally {
  uint64_t bytes = 0;
  uint64_t relayed_bytes = 0;  // of bytes: from a slot of this rank instead of a main copy
  uint64_t transfers = 0;
  uint64_t copy_ns = 0;
  uint64_t wait_ns = 0;
};

// How the caller waits: the algorithm says for what. Both return false when it will never come;
// the stream then stops.
class StreamWaits {
 public:
  virtual ~StreamWaits() = default;
  // Until rank `destination` accepts operation `number` on slot set `set`.
  virtual bool Accepted(uint32_t destination, uint32_t set, uint64_t number) = 0;
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

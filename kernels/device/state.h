// What a rank's kernels remember between launches: in device memory, at an address that never
// changes, moved on in stream order. Step numbers and operation numbers come from here, so that a
// captured CUDA graph needs no host call.
#pragma once

#include <cstdint>

#include "kernels/device/mailbox.h"
#include "kernels/device/plan_image.h"
#include "kernels/operation.h"
#include "protocol/limits.h"
#include "protocol/slot_board.h"

namespace ultraep {

// Blocks of one stream or reduction at most: what their tallies have room for.
inline constexpr uint32_t kMaxBlocks = 512;

// The reduction that used a slot's gradient last, and the home that takes it. number 0: none.
struct DeviceGradientUse {
  uint64_t number = 0;
  uint32_t home = 0;
  uint32_t unused = 0;
};

// A generation's slot memory as this rank's kernels see it, and its books (rule 6; the host's are
// OperationBook). Set anew by the await kernel when an image first names its generation.
struct DeviceMemory {
  uint64_t generation = 0;
  OperationHistory history;
  uint64_t next_forward = 0;           // sequence + 1 of the last forward stream
  uint64_t in_use[kMaxSlotSets] = {};  // sequence + 1 of the step whose stream is not released
  uint64_t failed = 0;                 // this rank could not follow: operations do nothing
  unsigned char** bases = nullptr;     // [ranks]
  DeviceGradientUse* uses = nullptr;   // [slot set][slot]
};

// One stream or reduction of a plan. All zero when the plan has none under way.
struct PlanOperation {
  uint64_t number = 0;
  uint64_t sequence = 0;
  uint64_t issued_ns = 0;
  uint32_t memory = 0;
  uint32_t set = 0;
  uint32_t active = 0;              // 1: begun and not ended
  uint32_t prepared = 0;            // of a stream: this rank's slot gradients
  unsigned long long next = 0;      // the blocks' common claim
  unsigned long long failures = 0;  // blocks that stopped
  unsigned long long blocks = 0;    // that have come back
  uint64_t arrived_ns = 0;          // of a stream: own slots complete
};

// A plan in device memory: operations, then counters, tallies and the image, where the layout says.
struct DevicePlan {
  PlanOperation stream;
  PlanOperation reduce;
  uint64_t streamed = 0;  // streams so far: a further one is a restore
  uint64_t routed = 0;
};

// What computes with a slot looks up: ultraep_cuda_slot of the C ABI.
struct DeviceSlot {
  uint32_t expert = UINT32_MAX;
  uint32_t unused = 0;
  uint64_t tokens = 0;
  void* shards[kMaxShards] = {};
  float* gradients[kMaxShards] = {};
};

struct DevicePlanLayout {
  DevicePlanLayout() = default;
  explicit DevicePlanLayout(const GroupConfig& c) {
    const uint64_t replicas = uint64_t{c.ranks} * c.slots;
    stream_done_at = RoundUp(sizeof(DevicePlan), kLine);
    reduce_done_at = stream_done_at + RoundUp(replicas * 8 + 8, kLine);
    counts_at = reduce_done_at + kLine;
    tallies_at = counts_at + RoundUp(uint64_t{c.experts} * 4 + 8, kLine);
    slots_at =
        tallies_at + RoundUp(kMaxBlocks * (sizeof(StreamTally) + sizeof(ReduceTally)), kLine);
    image_at = slots_at + RoundUp(c.slots * sizeof(DeviceSlot), kLine);
    image_bytes = PlanImageBytes(c);
    bytes = image_at + RoundUp(image_bytes, kLine);
  }

  uint64_t stream_done_at = 0;  // unsigned long long[send_count]
  uint64_t reduce_done_at = 0;  // unsigned long long
  uint64_t counts_at = 0;       // uint32_t[experts] and a ticket: what the routed ids count up to
  uint64_t tallies_at = 0;      // StreamTally[kMaxBlocks], ReduceTally[kMaxBlocks]
  uint64_t slots_at = 0;        // DeviceSlot[slots]
  uint64_t image_at = 0, image_bytes = 0;
  uint64_t bytes = 0;
};

struct DeviceState {
  DeviceState(const GroupConfig& c, uint32_t own_rank)
      : rank(own_rank),
        ranks(c.ranks),
        experts(c.experts),
        slots(c.slots),
        slot_sets(c.slot_sets),
        window(c.window),
        experts_per_rank(c.experts / c.ranks),
        layout(c),
        plan(c) {}

  // Set by the host, once.
  uint32_t rank, ranks, experts, slots;
  uint32_t slot_sets, window, experts_per_rank, unused = 0;
  uint64_t bound_ns = 0;  // no wait is longer
  SlotLayout layout;
  DevicePlanLayout plan;
  MailboxView mailbox;            // the device's address
  uint32_t* counts = nullptr;     // [experts], zero between steps: the row that is being counted
  unsigned long long ticket = 0;  // blocks that have counted
  uint64_t faults = 0;            // ids out of range, of the row that is being counted
  uint64_t fault_index = 0;       // + 1 of the first; 0: none. Kept as the smallest.
  // Moved on by kernels, in stream order.
  uint64_t next = 0;      // sequence of the next row
  uint64_t resolved = 0;  // sequence of the next await
  uint32_t memory = 0;    // of operations that begin now
  uint32_t has_memory = 0;
  uint64_t late = 0;  // awaits that have given up
  DeviceMemory memories[kMemories];
};

// Bytes of a state with the arrays behind it, and where they lie: counts, then each memory's bases
// and uses. The host fills in the pointers.
struct DeviceStateLayout {
  explicit DeviceStateLayout(const GroupConfig& c) {
    counts_at = RoundUp(sizeof(DeviceState), kLine);
    bases_at = counts_at + RoundUp(uint64_t{c.experts} * 4, kLine);
    bases_stride = RoundUp(uint64_t{c.ranks} * 8, kLine);
    uses_at = bases_at + bases_stride * kMemories;
    uses_stride = RoundUp(uint64_t{c.slot_sets} * c.slots * sizeof(DeviceGradientUse) + 1, kLine);
    bytes = uses_at + uses_stride * kMemories;
  }

  uint64_t counts_at = 0, bases_at = 0, bases_stride = 0, uses_at = 0, uses_stride = 0, bytes = 0;
};

}  // namespace ultraep

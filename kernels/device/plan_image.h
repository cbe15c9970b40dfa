// A step's verdict as kernels need it: everything that a CPU works out faster from the plan (who
// sends what, how tokens split, what is reduced) stands ready in one flat piece of bytes. The
// carrier writes it into the mailbox, the await kernel copies it into a plan's device memory.
//
//   PlanImageHead | replicas | sends | transfers | reductions | reduce_replicas | columns |
//   instances | column_of u32[experts] | row u32[experts]
//
// Each part begins on 16 bytes, where the head says; only `bytes` of it travel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/reduce_gradients.h"
#include "kernels/stream_weights.h"
#include "protocol/group_config.h"
#include "protocol/host_device.h"
#include "protocol/plan.h"
#include "protocol/split.h"

namespace ultraep {

enum class DeviceVerdict : uint32_t { kPlan = 1, kFallback = 2, kDeclined = 3, kFailed = 4 };

// A replicated expert, as this rank's tokens split over its instances: main first, then its
// replicas in plan order.
struct ColumnSplit {
  uint32_t expert = 0;
  uint32_t first_instance = 0;  // in `instances`
  uint32_t instances = 0;
  uint32_t unused = 0;
  SourceSplit source;
};

struct PlanImageHead {
  uint64_t sequence = 0;
  uint64_t generation = 0;  // of `memory`; 0: none, then nothing streams
  DeviceVerdict verdict = DeviceVerdict::kDeclined;
  uint32_t memory = 0;  // operations issued after this verdict use it
  uint32_t layer = 0;
  uint32_t microbatch = 0;
  uint32_t replica_count = 0;
  uint32_t send_count = 0;
  uint32_t transfer_count = 0;
  uint32_t reduction_count = 0;
  uint32_t reduce_replica_count = 0;
  uint32_t column_count = 0;
  uint32_t instance_count = 0;
  uint32_t bytes = 0;  // of the image
  uint64_t claims = 0;
  uint32_t replicas_at = 0;         // Replica, in transfer order
  uint32_t sends_at = 0;            // Send, this rank's queue
  uint32_t transfers_at = 0;        // uint32_t
  uint32_t reductions_at = 0;       // Reduction
  uint32_t reduce_replicas_at = 0;  // Replica
  uint32_t columns_at = 0;          // ColumnSplit
  uint32_t instances_at = 0;        // SplitInstance
  uint32_t column_of_at = 0;        // uint32_t[experts]: index into columns, or kNoColumn
  uint32_t row_at = 0;              // uint32_t[experts]: what this rank submitted
  uint32_t unused[5] = {};
  Certificate certificate;  // for people, like the next one
  uint64_t solve_ns = 0;
};
static_assert(sizeof(PlanImageHead) == 168 && alignof(PlanImageHead) == 8,
              "device and host code are built together");

inline constexpr uint32_t kNoColumn = UINT32_MAX;

// An image at an address. Does not own it.
struct PlanImageView {
  const unsigned char* at = nullptr;

  ULTRAEP_HOST_DEVICE const PlanImageHead& head() const {
    return *reinterpret_cast<const PlanImageHead*>(at);
  }
  template <class T>
  ULTRAEP_HOST_DEVICE const T* part(uint32_t offset) const {
    return reinterpret_cast<const T*>(at + offset);
  }
  ULTRAEP_HOST_DEVICE const Replica* replicas() const { return part<Replica>(head().replicas_at); }
  ULTRAEP_HOST_DEVICE const Send* sends() const { return part<Send>(head().sends_at); }
  ULTRAEP_HOST_DEVICE const uint32_t* transfers() const {
    return part<uint32_t>(head().transfers_at);
  }
  ULTRAEP_HOST_DEVICE const Reduction* reductions() const {
    return part<Reduction>(head().reductions_at);
  }
  ULTRAEP_HOST_DEVICE const Replica* reduce_replicas() const {
    return part<Replica>(head().reduce_replicas_at);
  }
  ULTRAEP_HOST_DEVICE const ColumnSplit* columns() const {
    return part<ColumnSplit>(head().columns_at);
  }
  ULTRAEP_HOST_DEVICE const SplitInstance* instances() const {
    return part<SplitInstance>(head().instances_at);
  }
  ULTRAEP_HOST_DEVICE const uint32_t* column_of() const {
    return part<uint32_t>(head().column_of_at);
  }
  ULTRAEP_HOST_DEVICE const uint32_t* row() const { return part<uint32_t>(head().row_at); }
};

// The most that an image of such a group takes.
inline uint64_t PlanImageBytes(const GroupConfig& c) {
  constexpr uint64_t kAlign = 16;
  const uint64_t replicas = uint64_t{c.ranks} * c.slots;
  const uint64_t columns = replicas < c.experts ? replicas : c.experts;
  const auto part = [](uint64_t bytes) { return RoundUp(bytes, kAlign); };
  return part(sizeof(PlanImageHead)) + part(replicas * sizeof(Replica)) * 2 +
         part(replicas * sizeof(Send)) + part(replicas * 4) + part(replicas * sizeof(Reduction)) +
         part(columns * sizeof(ColumnSplit)) + part((replicas + columns) * sizeof(SplitInstance)) +
         part(uint64_t{c.experts} * 4) * 2;
}

}  // namespace ultraep

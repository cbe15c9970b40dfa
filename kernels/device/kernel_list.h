// Every kernel of the backend: its name, how it is launched, and the one argument it takes. Kernels
// are launched by their number, so this is the agreement between the plugin, the backend, and the
// tests' driver that runs the same algorithms on the CPU.
//
// All work in stream order on a DeviceState and, but for counting, on a plan. None calls the host,
// none launches another. Whoever cannot go on leaves a FailureNote in the mailbox, marks the memory
// failed and ends; later operations on that memory do nothing.
#pragma once

#include <cstdint>

#include "kernels/device/state.h"

namespace ultraep {

enum class Kernel : uint32_t {
  kCountIds,       // CountArguments      ids -> row in the mailbox; blocks share
  kCountMap,       // CountArguments      the same from a dense map
  kSubmitRow,      // CountArguments      a row that the framework has counted; one block
  kAwait,          // AwaitArguments      until the verdict; image -> plan; one block
  kBeginStream,    // OperationArguments  numbers a stream or restore, accepts it; one block
  kStream,         // StreamArguments     this rank's sends, plain copies; blocks share
  kStreamBulk,     // StreamArguments     the same by bulk copies
  kAwaitAccepted,  // OperationArguments  copy-engine mode: until destinations accept; one block
  kSignal,         // SignalArguments     copy-engine mode: transfers are there; one block
  kArrive,         // OperationArguments  until this rank's slots are complete; one block
  kRelease,        // OperationArguments  ends the stream; one block
  kRouteIds,       // RouteArguments      logical -> physical ids; blocks share
  kRouteMap,       // RouteMapArguments   the same for dense maps and values
  kPrepare,        // PrepareArguments    slot gradients are free, and zero; blocks share
  kPublish,    // OperationArguments  numbers a reduction, says own gradients are ready; one block
  kReduce,     // ReduceArguments     adds replicas' gradients to the mains; blocks share
  kEndReduce,  // OperationArguments  one block
  kKernels
};

struct CountArguments {
  DeviceState* state;
  const void* from;  // int32 ids[count] | uint8 map[count][experts] | uint32 row[experts]
  uint64_t count;    // ids, or tokens of a map
  uint32_t layer;
  uint32_t microbatch;
};
struct AwaitArguments {
  DeviceState* state;
  DevicePlan* plan;
};
struct OperationArguments {
  DeviceState* state;
  DevicePlan* plan;
  uint32_t set;       // of kBeginStream
  // Of kAwaitAccepted: index of the transfer, whose source on this rank must also be complete when
  // it is relayed. UINT32_MAX: all of this rank, whose sources then are not waited for.
  uint32_t transfer;
  uint32_t layer;  // of kBeginStream and kPublish: whose main copies are used; must be the plan's
  uint32_t unused;
};
struct SignalArguments {
  DeviceState* state;
  DevicePlan* plan;
  uint32_t first, count;  // of the image's `transfers`
};
struct StreamArguments {
  DeviceState* state;
  DevicePlan* plan;
  const void* const* mains;  // device memory, [experts_per_rank][shard_count]
};
struct RouteArguments {
  DeviceState* state;
  DevicePlan* plan;
  const int32_t* ids;  // [count], -1: none; token by token, each token's choices side by side
  int32_t* physical;   // [count], not `ids`: blocks read ids that others have mapped already
  uint64_t count;
};
// map[tokens][experts] -> physical_map[tokens][ranks * (experts_per_rank + slots)], 0 or 1 each;
// values (of value_bytes 0, 2 or 4) travel along, 0 where the map is 0.
struct RouteMapArguments {
  DeviceState* state;
  DevicePlan* plan;
  const uint8_t* map;
  uint8_t* physical_map;
  const void* values;
  void* physical_values;
  uint64_t tokens;
  uint32_t value_bytes;
  uint32_t unused;
};
struct PrepareArguments {
  DeviceState* state;
  DevicePlan* plan;
  uint32_t zero;  // 0: the backward overwrites
  uint32_t unused;
};
struct ReduceArguments {
  DeviceState* state;
  DevicePlan* plan;
  void* const* mains;  // device memory, [experts_per_rank][gradient_count]
  GradientType type;
  uint32_t any_order;
};

// threads of a block, and its dynamic shared memory in bytes (experts: of the group).
struct KernelTraits {
  const char* name;  // extern "C"
  uint32_t threads;
  uint32_t shared_bytes;
  uint32_t shared_per_expert;
};

// Of the kernel with bulk copies. From sm_120 on a block has 99 KiB of shared memory, not 227:
// tiles are smaller there, and it is launched with what there is.
inline constexpr uint32_t kBulkStages = 8, kBulkTileBytes = 16 * 1024;
inline constexpr uint32_t kBulkSmallTileBytes = 12 * 1024, kSmallSharedBytes = 99 * 1024;
inline constexpr uint32_t kBulkSharedBytes = kBulkStages * kBulkTileBytes + 256;
inline constexpr uint32_t kTeamSharedBytes = 160;  // of a BlockTeam; its scratch follows

inline constexpr KernelTraits kKernelTraits[uint32_t(Kernel::kKernels)] = {
    {"ultraep_count_ids", 512, kTeamSharedBytes, 4},
    {"ultraep_count_map", 512, kTeamSharedBytes, 4},
    {"ultraep_submit_row", 512, kTeamSharedBytes, 0},
    {"ultraep_await", 512, kTeamSharedBytes, 0},
    {"ultraep_begin_stream", 128, kTeamSharedBytes, 0},
    {"ultraep_stream", 512, kTeamSharedBytes, 0},
    {"ultraep_stream_bulk", 64, kBulkSharedBytes, 0},
    {"ultraep_await_accepted", 32, kTeamSharedBytes, 0},
    {"ultraep_signal", 256, kTeamSharedBytes, 0},
    {"ultraep_arrive", 256, kTeamSharedBytes, 0},
    {"ultraep_release", 128, kTeamSharedBytes, 0},
    {"ultraep_route_ids", 512, kTeamSharedBytes, 4},
    {"ultraep_route_map", 512, kTeamSharedBytes, 4},
    {"ultraep_prepare", 512, kTeamSharedBytes, 0},
    {"ultraep_publish", 128, kTeamSharedBytes, 0},
    {"ultraep_reduce", 256, kTeamSharedBytes, 0},
    {"ultraep_end_reduce", 128, kTeamSharedBytes, 0},
};

}  // namespace ultraep

// How a kernel of the list becomes one for the device: a block as a team, its shared memory as the
// list's traits say, one struct as the argument.
#pragma once

#include "kernels/bulk_team.cuh"
#include "kernels/device/kernel_list.h"
#include "kernels/device/watch.h"

namespace ultraep::device {

using BlockTeam = ultraep::BlockTeam;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
using TileTeam = BulkTeam<kBulkStages, kBulkSmallTileBytes>;
static_assert(sizeof(TileTeam::Shared) <= kSmallSharedBytes);
#else
using TileTeam = BulkTeam<kBulkStages, kBulkTileBytes>;
#endif

constexpr const KernelTraits& TraitsOf(Kernel kernel) { return kKernelTraits[uint32_t(kernel)]; }

static_assert(sizeof(BlockTeam::Shared) <= kTeamSharedBytes && kTeamSharedBytes % 16 == 0,
              "the scratch lies behind it");
static_assert(sizeof(TileTeam::Shared) <= kBulkSharedBytes);

__device__ inline unsigned char* BlockMemory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

// The calling thread's part. Scratch: what the launch gave beyond kTeamSharedBytes.
template <class Arguments>
__device__ void RunBlock(void (*kernel)(BlockTeam&, Block, const Arguments&),
                         const Arguments& arguments) {
  unsigned char* const memory = BlockMemory();
  BlockTeam team(reinterpret_cast<BlockTeam::Shared*>(memory),
                 reinterpret_cast<uint32_t*>(memory + kTeamSharedBytes));
  kernel(team, {blockIdx.x, gridDim.x}, arguments);
}

// extern "C" ultraep_NAME: device::FUNCTION on a BlockTeam.
#define ULTRAEP_KERNEL(NAME, FUNCTION, ARGUMENTS)                                           \
  static_assert(TraitsOf(Kernel::k##FUNCTION).threads <= ultraep::BlockTeam::kMaxThreads && \
                TraitsOf(Kernel::k##FUNCTION).threads % 32 == 0 &&                          \
                TraitsOf(Kernel::k##FUNCTION).shared_bytes >= kTeamSharedBytes);            \
  extern "C" __global__ void __launch_bounds__(TraitsOf(Kernel::k##FUNCTION).threads, 1)    \
      NAME(const __grid_constant__ ARGUMENTS arguments) {                                   \
    RunBlock(FUNCTION<ultraep::BlockTeam>, arguments);                                      \
  }

}  // namespace ultraep::device

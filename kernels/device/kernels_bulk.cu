// The kernel that sends weights by bulk copies.
#include "kernels/device/launch.cuh"
#include "kernels/device/transfer.h"

namespace ultraep::device {

extern "C" __global__ void __launch_bounds__(TraitsOf(Kernel::kStreamBulk).threads, 1)
    ultraep_stream_bulk(const __grid_constant__ StreamArguments arguments) {
  TileTeam team(reinterpret_cast<TileTeam::Shared*>(BlockMemory()));
  Stream(team, {blockIdx.x, gridDim.x}, arguments);
}

}  // namespace ultraep::device

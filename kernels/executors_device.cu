// Compiles the kernels of executors.cuh for the device. No product code yet: the CUDA backend
// launches them; tests/gpu runs them.
#include "kernels/bulk_team.cuh"
#include "kernels/executors.cuh"

namespace ultraep {

template __global__ void StreamKernel<BlockTeam>(StreamLaunch);
template __global__ void StreamKernel<BulkTeam<>>(StreamLaunch);
template __global__ void ReduceKernel<BlockTeam>(ReduceLaunch);

}  // namespace ultraep

// What the parts of the GPU tests offer to main.cu, and the kernel for a whole group at once.
#pragma once

#include "kernels/executors.cuh"

namespace ultraep::gpu {

// Blocks of all senders in one launch: [sender][block].
template <class Team>
__global__ void __launch_bounds__(Team::kMaxThreads)
    GroupStreamKernel(const StreamLaunch* senders, uint32_t blocks) {
  extern __shared__ __align__(128) unsigned char block_memory[];
  const StreamLaunch launch = senders[blockIdx.x / blocks];
  StreamBlock<Team>(launch, block_memory, blockIdx.x % blocks);
}

void TestStreams();
void TestReductions();
void TestSplit();
void TestBackend();
void Bench();

}  // namespace ultraep::gpu

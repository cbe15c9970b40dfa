// SendWeights and ReduceGradients as kernels: a block is a team, waits poll. All pointers are
// device memory, also those inside of structs.
#pragma once

#include "kernels/block_team.cuh"
#include "kernels/reduce_gradients.h"
#include "kernels/stream_weights.h"

namespace ultraep {

// What one rank's blocks share in an operation.
struct StreamLaunch {
  SlotView slots;
  StreamOperation op;
  std::atomic<uint64_t>* const* accepts = nullptr;  // [ranks] operation that the rank accepts
  const std::atomic<uint64_t>* stop = nullptr;      // raised: what is waited for will never come
  unsigned long long* next = nullptr;               // 0 at first, like the two below
  unsigned long long* done = nullptr;               // [send_count]
  unsigned long long* failures = nullptr;           // blocks that stopped
  StreamTally* tallies = nullptr;                   // [blocks]
};
struct ReduceLaunch {
  SlotView slots;
  ReduceOperation op;
  const std::atomic<uint64_t>* stop = nullptr;
  unsigned long long* next = nullptr;
  unsigned long long* done = nullptr;
  unsigned long long* failures = nullptr;
  ReduceTally* tallies = nullptr;
};

class StreamWaits {
 public:
  __device__ explicit StreamWaits(const StreamLaunch& launch) : launch_(launch) {}

  __device__ bool Accepted(uint32_t rank) { return Shows(launch_.accepts[rank]); }
  __device__ bool Chunk(uint32_t transfer, uint64_t chunk) {
    const StreamOperation& op = launch_.op;
    return Shows(launch_.slots.chunk_flags(op.self, op.set, op.replicas[transfer].slot) + chunk);
  }
  __device__ void Announce(uint32_t) {}  // nobody sleeps on a GPU

 private:
  __device__ bool Shows(const std::atomic<uint64_t>* word) {
    while (LoadAcquire(word) != launch_.op.number)
      if (LoadAcquire(launch_.stop)) return false;
    return true;
  }

  const StreamLaunch& launch_;
};

class ReduceWaits {
 public:
  __device__ explicit ReduceWaits(const ReduceLaunch& launch) : launch_(launch) {}

  __device__ uint64_t Gradients(const Replica* replicas, uint64_t pending, bool all) {
    for (;;) {
      uint64_t here = 0;
      for (uint64_t left = pending; left; left &= left - 1) {
        const int i = __ffsll(static_cast<long long>(left)) - 1;
        const Replica& r = replicas[i];
        if (LoadAcquire(
                &launch_.slots.gradient_words(r.rank, launch_.op.set, r.slot).ready.value) ==
            launch_.op.number)
          here |= uint64_t{1} << i;
      }
      if (all ? here == pending : here != 0) return here;
      if (LoadAcquire(launch_.stop)) return 0;
    }
  }
  __device__ void Announce(uint32_t) {}

 private:
  const ReduceLaunch& launch_;
};

// `memory`: of the block, sizeof(Team::Shared). `block`: among those of the launch.
template <class Team>
__device__ void StreamBlock(const StreamLaunch& launch, unsigned char* memory, uint32_t block) {
  Team team(reinterpret_cast<typename Team::Shared*>(memory));
  StreamWaits waits(launch);
  StreamTally tally;
  const bool fine =
      SendWeights(team, waits, launch.slots, launch.op, launch.next, launch.done, &tally);
  if (threadIdx.x != 0) return;
  launch.tallies[block] = tally;
  if (!fine) atomicAdd(launch.failures, 1ull);
}

// Dynamic shared memory: sizeof(Team::Shared). All blocks of all ranks must be able to run at once,
// for relays wait for their senders.
template <class Team>
__global__ void __launch_bounds__(Team::kMaxThreads) StreamKernel(StreamLaunch launch) {
  extern __shared__ __align__(128) unsigned char block_memory[];
  StreamBlock<Team>(launch, block_memory, blockIdx.x);
}

template <class Team>
__global__ void __launch_bounds__(Team::kMaxThreads, 1) ReduceKernel(ReduceLaunch launch) {
  extern __shared__ __align__(128) unsigned char block_memory[];
  Team team(reinterpret_cast<typename Team::Shared*>(block_memory));
  ReduceWaits waits(launch);
  ReduceTally tally;
  const bool fine =
      ReduceGradients(team, waits, launch.slots, launch.op, launch.next, launch.done, &tally);
  if (threadIdx.x != 0) return;
  launch.tallies[blockIdx.x] = tally;
  if (!fine) atomicAdd(launch.failures, 1ull);
}

}  // namespace ultraep

// Proves by compiling that stream_weights.h and reduce_gradients.h are device code: a block of
// threads as a team, and waits that poll. No product code: the CUDA backend brings its own copies
// (bulk, asynchronous), bounds and buffers, and the same algorithms.
#include "kernels/reduce_gradients.h"
#include "kernels/stream_weights.h"

namespace ultraep {
namespace {

class BlockTeam {
 public:
  using Counter = unsigned long long;
  static constexpr uint64_t kBlock = 4;  // a float4 per thread

  __device__ explicit BlockTeam(uint64_t* elected) : elected_(*elected) {}
  __device__ uint32_t rank() const { return threadIdx.x; }
  __device__ uint32_t size() const { return blockDim.x; }
  __device__ void Sync() { __syncthreads(); }
  template <class F>
  __device__ uint64_t Elect(F f) {
    __syncthreads();
    if (threadIdx.x == 0) elected_ = f();
    __syncthreads();
    return elected_;
  }
  __device__ uint64_t Claim(Counter* counter) {
    __threadfence();
    const uint64_t before = atomicAdd(counter, 1ull);
    __threadfence();
    return before;
  }
  __device__ void Copy(void* const* to, uint32_t count, const void* from, uint64_t bytes) {
    for (uint64_t i = threadIdx.x; i < bytes; i += blockDim.x) {
      const unsigned char value = static_cast<const unsigned char*>(from)[i];
      for (uint32_t k = 0; k < count; ++k) static_cast<unsigned char*>(to[k])[i] = value;
    }
  }
  __device__ void OrderCopies() { __threadfence_system(); }
  __device__ void Signal(std::atomic<uint64_t>* word, uint64_t value) {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
  }
  __device__ uint64_t Now() const {
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
  }

 private:
  uint64_t& elected_;
};

__device__ uint64_t Acquire(const std::atomic<uint64_t>* word) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
}

class PollingWaits {
 public:
  __device__ PollingWaits(const SlotView& slots, uint64_t number, uint32_t self, uint32_t set,
                          const Replica* replicas, std::atomic<uint64_t>* const* accepts)
      : slots_(slots),
        number_(number),
        self_(self),
        set_(set),
        replicas_(replicas),
        accepts_(accepts) {}

  __device__ bool Accepted(uint32_t rank) {
    while (Acquire(accepts_[rank]) != number_) {
    }
    return true;
  }
  __device__ bool Chunk(uint32_t transfer, uint64_t chunk) {
    while (Acquire(slots_.chunk_flags(self_, set_, replicas_[transfer].slot) + chunk) != number_) {
    }
    return true;
  }
  __device__ uint64_t Gradients(const Replica* replicas, uint64_t pending, bool all) {
    for (;;) {
      uint64_t here = 0;
      for (uint64_t i = 0; i < 64; ++i)
        if (pending >> i & 1 &&
            Acquire(&slots_.gradient_words(replicas[i].rank, set_, replicas[i].slot).ready.value) ==
                number_)
          here |= uint64_t{1} << i;
      if (all ? here == pending : here != 0) return here;
    }
  }
  __device__ void Announce(uint32_t) {}  // nobody sleeps on a GPU

 private:
  const SlotView& slots_;
  const uint64_t number_;
  const uint32_t self_, set_;
  const Replica* const replicas_;
  std::atomic<uint64_t>* const* const accepts_;
};

}  // namespace

// One team per block. tallies: [blocks].
__global__ void StreamKernel(SlotView slots, StreamOperation op,
                             std::atomic<uint64_t>* const* accepts, unsigned long long* next,
                             unsigned long long* done, StreamTally* tallies) {
  __shared__ uint64_t elected;
  BlockTeam team(&elected);
  PollingWaits waits(slots, op.number, op.self, op.set, op.replicas, accepts);
  StreamTally tally;
  SendWeights(team, waits, slots, op, next, done, &tally);
  if (threadIdx.x == 0) tallies[blockIdx.x] = tally;
}

__global__ void ReduceKernel(SlotView slots, ReduceOperation op, unsigned long long* next,
                             unsigned long long* done, ReduceTally* tallies) {
  __shared__ uint64_t elected;
  BlockTeam team(&elected);
  PollingWaits waits(slots, op.number, 0, op.set, op.replicas, nullptr);
  ReduceTally tally;
  ReduceGradients(team, waits, slots, op, next, done, &tally);
  if (threadIdx.x == 0) tallies[blockIdx.x] = tally;
}

}  // namespace ultraep

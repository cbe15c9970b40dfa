// A block of threads of a GPU as a team (team.h). Two kinds, which differ in how they copy:
//   BlockTeam   every thread loads and stores, 16 bytes at a time, several loads in flight
//   BulkTeam    bulk_team.cuh: one thread starts bulk copies through shared memory
#pragma once

#include <atomic>
#include <cstdint>

namespace ultraep {

// Also of memory that other GPUs, or bulk copies that have completed, wrote.
__device__ inline uint64_t LoadAcquire(const std::atomic<uint64_t>* word) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];"
               : "=l"(value)
               : "l"(__cvta_generic_to_global(word))
               : "memory");
  return value;
}

class BlockTeam {
 public:
  using Counter = unsigned long long;
  static constexpr uint64_t kBlock = 8;  // two float4 per thread: on an H100 faster than one
  static constexpr uint32_t kMaxThreads = 512;

  // In shared memory, uninitialised.
  struct Shared {
    uint64_t elected;
    uint64_t sums[kMaxThreads / 32];  // of the warps
  };

  __device__ explicit BlockTeam(Shared* shared, uint32_t* scratch = nullptr)
      : shared_(*shared), scratch_(scratch) {}
  BlockTeam(const BlockTeam&) = delete;
  BlockTeam& operator=(const BlockTeam&) = delete;

  __device__ uint32_t rank() const { return threadIdx.x; }
  __device__ uint32_t size() const { return blockDim.x; }
  __device__ void Sync() {
    __syncthreads();
    released_ = false;
  }
  template <class F>
  __device__ uint64_t Elect(F f) {
    Sync();
    if (threadIdx.x == 0) shared_.elected = f();
    Sync();
    return shared_.elected;
  }
  __device__ uint64_t Claim(Counter* counter) {
    uint64_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u64 %0, [%1], 1;"
                 : "=l"(before)
                 : "l"(__cvta_generic_to_global(counter))
                 : "memory");
    return before;
  }

  __device__ void Copy(void* const* to, uint32_t count, const void* from, uint64_t bytes) {
    uint64_t bits = reinterpret_cast<uint64_t>(from);
    for (uint32_t k = 0; k < count; ++k) bits |= reinterpret_cast<uint64_t>(to[k]);
    if (bits % sizeof(uint4) == 0)
      CopyWords<uint4>(to, count, from, 0, bytes);
    else
      CopyUnaligned(bits, to, count, from, bytes);
  }
  // The fence of the first Signal after a Sync orders what all members stored before that Sync.
  __device__ void OrderCopies() {}
  // One fence serves all signals up to the next Sync: a run of chunks has many flags.
  __device__ void Signal(std::atomic<uint64_t>* word, uint64_t value) {
    if (!released_) asm volatile("fence.acq_rel.sys;" ::: "memory");
    released_ = true;
    asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(word)),
                 "l"(value)
                 : "memory");
  }
  // Member 0's: nobody looks at what the others measure.
  __device__ uint64_t Now() const {
    uint64_t now = 0;
    if (threadIdx.x == 0) asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
  }

  __device__ uint64_t Acquire(const std::atomic<uint64_t>* word) const { return LoadAcquire(word); }
  __device__ void Release(std::atomic<uint64_t>* word, uint64_t value) const {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(word)),
                 "l"(value)
                 : "memory");
  }
  __device__ bool Exchange(std::atomic<uint64_t>* word, uint64_t from, uint64_t to) const {
    uint64_t before;
    asm volatile("atom.acq_rel.sys.global.cas.b64 %0, [%1], %2, %3;"
                 : "=l"(before)
                 : "l"(__cvta_generic_to_global(word)), "l"(from), "l"(to)
                 : "memory");
    return before == from;
  }
  __device__ uint32_t Add(uint32_t* place, uint32_t value) const { return atomicAdd(place, value); }
  __device__ uint64_t Add(uint64_t* place, uint64_t value) const {
    return atomicAdd(reinterpret_cast<unsigned long long*>(place), value);
  }
  __device__ void Relax() const { __nanosleep(20); }
  // Blocks are whole warps.
  __device__ uint64_t Prefix(uint64_t value, uint64_t* total) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const uint64_t upto = WarpPrefix(value, lane);
    Sync();
    if (lane == 31) shared_.sums[warp] = upto;
    Sync();
    const uint64_t sums = WarpPrefix(lane < warps ? shared_.sums[lane] : 0, lane);
    *total = __shfl_sync(~0u, sums, int(warps - 1));
    const uint64_t before = __shfl_sync(~0u, sums, int(warp ? warp - 1 : 0));
    return (warp ? before : 0) + upto - value;
  }
  __device__ uint32_t* scratch() const { return scratch_; }

 protected:
  // bits: of all addresses together, of which not all are multiples of 16.
  __device__ static void CopyUnaligned(uint64_t bits, void* const* to, uint32_t count,
                                       const void* from, uint64_t bytes) {
    if (bits % sizeof(uint32_t) == 0)
      CopyWords<uint32_t>(to, count, from, 0, bytes);
    else
      CopyWords<unsigned char>(to, count, from, 0, bytes);
  }
  // Bytes [begin, bytes), as many as go as whole words, the rest one by one. Loads go past the
  // first-level cache (.cg): nothing is read twice here.
  template <class Word>
  __device__ static void CopyWords(void* const* to, uint32_t count, const void* from,
                                   uint64_t begin, uint64_t bytes) {
    constexpr uint32_t kInFlight = 8;
    const auto* in = static_cast<const Word*>(from);
    const uint64_t words = bytes / sizeof(Word), step = blockDim.x;
    uint64_t i = begin / sizeof(Word) + threadIdx.x;
    for (; i + (kInFlight - 1) * step < words; i += kInFlight * step) {
      Word held[kInFlight];
#pragma unroll
      for (uint32_t u = 0; u < kInFlight; ++u) held[u] = __ldcg(in + i + u * step);
      for (uint32_t k = 0; k < count; ++k) {
        auto* out = static_cast<Word*>(to[k]) + i;
#pragma unroll
        for (uint32_t u = 0; u < kInFlight; ++u) out[u * step] = held[u];
      }
    }
    for (; i < words; i += step) {
      const Word held = __ldcg(in + i);
      for (uint32_t k = 0; k < count; ++k) static_cast<Word*>(to[k])[i] = held;
    }
    for (uint64_t at = words * sizeof(Word) + threadIdx.x; at < bytes; at += step) {
      const unsigned char held = __ldcg(static_cast<const unsigned char*>(from) + at);
      for (uint32_t k = 0; k < count; ++k) static_cast<unsigned char*>(to[k])[at] = held;
    }
  }

 private:
  // The sum over this lane and those before.
  __device__ static uint64_t WarpPrefix(uint64_t value, uint32_t lane) {
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint64_t other = __shfl_up_sync(~0u, value, step);
      if (lane >= step) value += other;
    }
    return value;
  }

  Shared& shared_;
  uint32_t* const scratch_;
  bool released_ = false;  // a fence came since the last Sync
};

}  // namespace ultraep

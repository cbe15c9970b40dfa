// A block whose thread 0 copies with the tensor memory accelerator: bulk copies of tiles into
// shared memory and out again, several tiles under way. The other threads only wait, so a block
// needs few.
//
//   tile t:      load (mbarrier) ......... store to all destinations (bulk group)
//   tile t + 1:     load ..................... store
//   A stage is loaded again once the stores that read it are over; kAhead loads are under way
//   while the stores of the other stages drain.
//
// Bulk copies belong to the async proxy, loads and stores to the generic one:
//   somebody's stores -> flag -> our load      fence.proxy.async after the acquire, before the copy
//   load -> store of one tile                  completion on the mbarrier is a proxy fence
//   our store -> flag                          waiting for the bulk groups is one, and a fence
#pragma once

#include "kernels/block_team.cuh"

namespace ultraep {

template <uint32_t kStages = 8, uint32_t kTileBytes = 16 * 1024>
class BulkTeam : public BlockTeam {
  static_assert(kStages >= 2 && (kStages & (kStages - 1)) == 0, "tile numbers wrap at 2^32");
  static_assert(kTileBytes % 128 == 0);
  static constexpr uint32_t kAhead = kStages / 2;

 public:
  struct Shared {
    alignas(128) unsigned char stages[kStages][kTileBytes];
    alignas(8) uint64_t loaded[kStages];  // mbarriers
    BlockTeam::Shared block;
  };

  __device__ explicit BulkTeam(Shared* shared) : BlockTeam(&shared->block), shared_(*shared) {
    if (threadIdx.x == 0) {
      for (uint32_t s = 0; s < kStages; ++s)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(InShared(&shared_.loaded[s]))
                     : "memory");
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
  }
  // Stores read shared memory until they are over, also when the operation stopped half-way.
  __device__ ~BulkTeam() { WaitForStores(); }

  __device__ void Copy(void* const* to, uint32_t count, const void* from, uint64_t bytes) {
    uint64_t bits = reinterpret_cast<uint64_t>(from);
    for (uint32_t k = 0; k < count; ++k) bits |= reinterpret_cast<uint64_t>(to[k]);
    if (bits % 16 != 0) return CopyUnaligned(bits, to, count, from, bytes);
    const uint64_t whole = bytes / 16 * 16;
    if (threadIdx.x == 0) CopyBulk(to, count, static_cast<const unsigned char*>(from), whole);
    CopyWords<unsigned char>(to, count, from, whole, bytes);
  }
  __device__ void OrderCopies() { WaitForStores(); }

 private:
  __device__ static uint32_t InShared(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
  }

  __device__ void CopyBulk(void* const* to, uint32_t count, const unsigned char* from,
                           uint64_t bytes) {
    asm volatile("fence.proxy.async;" ::: "memory");
    const uint64_t tiles = (bytes + kTileBytes - 1) / kTileBytes;
    for (uint64_t t = 0; t < tiles + kAhead; ++t) {
      if (t < tiles) {
        // The stage's last stores have read it: kAhead tiles have no stores yet.
        asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kStages - 1 - kAhead) : "memory");
        Load(first_ + uint32_t(t), from + t * kTileBytes, TileBytes(bytes, t));
      }
      if (t >= kAhead)
        Store(first_ + uint32_t(t - kAhead), to, count, (t - kAhead) * kTileBytes,
              TileBytes(bytes, t - kAhead));
    }
    first_ += uint32_t(tiles);
  }
  __device__ static uint32_t TileBytes(uint64_t bytes, uint64_t tile) {
    const uint64_t left = bytes - tile * kTileBytes;
    return left < kTileBytes ? uint32_t(left) : kTileBytes;
  }

  __device__ void Load(uint32_t tile, const void* from, uint32_t bytes) {
    const uint32_t barrier = InShared(&shared_.loaded[tile % kStages]);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(InShared(shared_.stages[tile % kStages])),
        "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
        : "memory");
  }

  __device__ void Store(uint32_t tile, void* const* to, uint32_t count, uint64_t at,
                        uint32_t bytes) {
    const uint32_t barrier = InShared(&shared_.loaded[tile % kStages]);
    uint32_t here = 0;
    while (!here)
      asm volatile(
          "{\n"
          "  .reg .pred done;\n"
          "  mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
          "  selp.u32 %0, 1, 0, done;\n"
          "}"
          : "=r"(here)
          : "r"(barrier), "r"(tile / kStages & 1)
          : "memory");
    for (uint32_t k = 0; k < count; ++k)
      asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                       __cvta_generic_to_global(static_cast<unsigned char*>(to[k]) + at)),
                   "r"(InShared(shared_.stages[tile % kStages])), "r"(bytes)
                   : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  }

  // Until they are written, not only read; of the other threads there are none.
  __device__ void WaitForStores() {
    if (threadIdx.x != 0) return;
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
  }

  Shared& shared_;
  uint32_t first_ = 0;  // tiles so far, of thread 0
};

}  // namespace ultraep

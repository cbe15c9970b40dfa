// Where one rank's slots hold replica weights, gradients and their flags. Offsets are computed here
// and nowhere else; plain data, for host and device.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "protocol/group_config.h"
#include "protocol/host_device.h"
#include "protocol/segment.h"
#include "protocol/words.h"

namespace ultraep {

// Replica weights and gradients of one rank; written by the group's members.
//
//    0               256        384        512       1536     1664          gradient_words_at
//   +---------------+----------+----------+---------+--------+-------------+---------------+-----
//   | SegmentHeader | arrivals | sleeping | accepts | voided | chunk flags | GradientWords | ...
//   +---------------+----------+----------+---------+--------+-------------+---------------+-----
//   ... weights at weights_at
//   ... gradients at gradients_at
//
// arrivals: raised when something has come that this rank may wait for: chunks, gradients to add,
// gradients taken. sleeping: how many of its threads wait for it. accepts: [slot set], of groups
// whose slots are on GPUs; the others' stand in the rank boards, which kernels cannot write. All
// further parts are [slot set][slot]. voided: on a GPU, 1 once any rank could not follow: stored by
// that rank's kernel before whatever it computes next, so that no result made with it comes before
// it. flags: u64[chunk], each slot's start on a line; a flag holds the number of the operation
// whose chunk is complete. weights, gradients (float32): shards and parts in order, each starting
// on a line. On a GPU nobody reads the header: the memory came from the rank itself, and host code
// does not look into it.
struct SlotBoard {
  SegmentHeader header;
  Pulse arrivals;
  Word sleeping;
  Word accepts[kMaxSlotSets];
  Word voided;
};
static_assert(sizeof(SlotBoard) == 1664 && alignof(SlotBoard) == kLine &&
                  offsetof(SlotBoard, accepts) == 512 && offsetof(SlotBoard, voided) == 1536,
              "bump kLayoutVersion");

// Of one slot; both hold the number of a reduction. ready: its gradient is complete, stored by the
// slot's own rank. taken: it has been added to the main gradient, stored by the home of the expert
// in the slot. Per slot, because a rank whose slot is not used in a reduction waits for nobody
// there: a word for a whole set would run ahead of homes that still read.
//
//    0       128     256
//   +-------+-------+
//   | ready | taken |
//   +-------+-------+
struct GradientWords {
  Word ready;
  Word taken;
};
static_assert(sizeof(GradientWords) == 256 && alignof(GradientWords) == kLine &&
                  offsetof(GradientWords, taken) == 128,
              "bump kLayoutVersion");

// A chunk has one ready flag. 256 KiB: a flag costs about a cache miss, copying the chunk some 25
// us.
inline constexpr uint64_t kChunkBytes = 256 * 1024;

struct SlotLayout {
  explicit SlotLayout(const GroupConfig& c)
      : slots_per_set(c.slots), shard_count(c.shard_count), gradient_count(c.gradient_count) {
    for (uint32_t i = 0; i < shard_count; ++i) {
      shard_bytes[i] = c.shard_bytes[i];
      shard_at[i] = slot_bytes;
      shard_chunk[i] = chunks;
      slot_bytes += RoundUp(c.shard_bytes[i], kLine);
      chunks += shard_chunks(i);
    }
    for (uint32_t i = 0; i < gradient_count; ++i) {
      gradient_elements[i] = c.gradient_bytes[i] / sizeof(float);
      gradient_at[i] = gradient_stride;
      gradient_stride += RoundUp(c.gradient_bytes[i], kLine);
    }
    const uint64_t places = uint64_t{c.slot_sets} * c.slots;
    flag_stride = RoundUp(chunks * 8, kLine);
    gradient_words_at = sizeof(SlotBoard) + flag_stride * places;
    weights_at = gradient_words_at + (gradient_count ? sizeof(GradientWords) * places : 0);
    gradients_at = weights_at + slot_bytes * places;
    slot_board_bytes = gradients_at + gradient_stride * places;
  }

  // Chunks of shard i are numbered shard_chunk[i] .. and hold kChunkBytes each, the last one less.
  ULTRAEP_HOST_DEVICE uint64_t shard_chunks(uint32_t i) const {
    return (shard_bytes[i] + kChunkBytes - 1) / kChunkBytes;
  }
  ULTRAEP_HOST_DEVICE uint64_t place(uint32_t set, uint32_t slot) const {
    return uint64_t{set} * slots_per_set + slot;
  }
  // Of one slot's gradient.
  ULTRAEP_HOST_DEVICE uint64_t elements() const {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < gradient_count; ++i) sum += gradient_elements[i];
    return sum;
  }

  uint32_t slots_per_set = 0, shard_count = 0, gradient_count = 0;
  uint64_t shard_bytes[kMaxShards] = {}, gradient_elements[kMaxShards] = {};
  uint64_t shard_at[kMaxShards] = {}, gradient_at[kMaxShards] = {};
  uint64_t shard_chunk[kMaxShards] = {};
  uint64_t slot_bytes = 0, chunks = 0, gradient_stride = 0;  // of one slot
  uint64_t flag_stride = 0;
  uint64_t gradient_words_at = 0, weights_at = 0, gradients_at = 0;
  uint64_t slot_board_bytes = 0;
};

// All ranks' slots as one process, or one GPU, sees them. Does not own them.
struct SlotView {
  const SlotLayout* layout = nullptr;
  unsigned char* const* base = nullptr;  // [ranks]

  ULTRAEP_HOST_DEVICE SlotBoard& board(uint32_t rank) const {
    return *reinterpret_cast<SlotBoard*>(base[rank]);
  }
  ULTRAEP_HOST_DEVICE std::atomic<uint64_t>* chunk_flags(uint32_t rank, uint32_t set,
                                                         uint32_t slot) const {
    return reinterpret_cast<std::atomic<uint64_t>*>(base[rank] + sizeof(SlotBoard) +
                                                    layout->flag_stride * layout->place(set, slot));
  }
  ULTRAEP_HOST_DEVICE GradientWords& gradient_words(uint32_t rank, uint32_t set,
                                                    uint32_t slot) const {
    return reinterpret_cast<GradientWords*>(base[rank] +
                                            layout->gradient_words_at)[layout->place(set, slot)];
  }
  ULTRAEP_HOST_DEVICE unsigned char* shard(uint32_t rank, uint32_t set, uint32_t slot,
                                           uint32_t shard) const {
    return base[rank] + layout->weights_at + layout->slot_bytes * layout->place(set, slot) +
           layout->shard_at[shard];
  }
  ULTRAEP_HOST_DEVICE float* gradient(uint32_t rank, uint32_t set, uint32_t slot,
                                      uint32_t part) const {
    return reinterpret_cast<float*>(base[rank] + layout->gradients_at +
                                    layout->gradient_stride * layout->place(set, slot) +
                                    layout->gradient_at[part]);
  }
};

}  // namespace ultraep

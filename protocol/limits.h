// Hard caps of the agreement. A value above one of them is refused by name, never truncated.
#pragma once

#include <cstdint>

namespace ultraep {

// EP groups of 256 ranks are served; the cap leaves room for offline planning of larger ones. Rank
// and slot numbers travel in 16 bits.
inline constexpr uint32_t kMaxRanks = 512;

// Largest published model: 896 routed experts. Four times that.
inline constexpr uint32_t kMaxExperts = 4096;

// Slots of one rank are checked with one 32-bit mask.
inline constexpr uint32_t kMaxSlotsPerRank = 32;

// Steps one rank may have open at once (rule 4). Layers x microbatches in flight stay below it.
inline constexpr uint32_t kMaxWindow = 64;

// Operations that overlap need a slot set each (rule 6).
inline constexpr uint32_t kMaxSlotSets = 8;

// fc1, fc2 and their scales are four; eight leaves room for packed formats.
inline constexpr uint32_t kMaxShards = 8;

// One source rank's tokens x top-k of one step. Ordinals of routed tokens are 32 bit.
inline constexpr uint64_t kMaxRowTokens = UINT32_MAX;

}  // namespace ultraep

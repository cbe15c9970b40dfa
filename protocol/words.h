// The smallest pieces of shared memory: one word per independent writer, and copies that stay legal
// C++ even when a peer breaks the rules and writes meanwhile.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ultraep {

static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(std::atomic<uint32_t>::is_always_lock_free);

// Two cache lines of 64: the x86 adjacent-line prefetcher pairs them, some Arm cores have 128.
inline constexpr size_t kLine = 128;

constexpr uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

// A 64-bit word alone on its line.
//
//    0       8                     128
//   +-------+---------------------+
//   | value | nothing, on purpose |
//   +-------+---------------------+
struct alignas(kLine) Word {
  std::atomic<uint64_t> value;
};
static_assert(sizeof(Word) == kLine && alignof(Word) == kLine, "bump kLayoutVersion");

// A futex word: counts events. A sleeper reads it, checks its condition again, and sleeps only
// while it has not moved.
//
//    0        4                    128
//   +--------+--------------------+
//   | count  | nothing            |
//   +--------+--------------------+
struct alignas(kLine) Pulse {
  std::atomic<uint32_t> count;
};
static_assert(sizeof(Pulse) == kLine && alignof(Pulse) == kLine, "bump kLayoutVersion");

// Copies out of and into shared memory word by word with relaxed atomics: ordering comes from the
// stamp or verdict word around them, and a peer that scribbles meanwhile gives wrong values, which
// validation finds, but never undefined behaviour. Both addresses are 8-byte aligned and `bytes` is
// a multiple of 8.
inline void CopyFromShared(void* to, const void* shared, size_t bytes) {
  auto* out = static_cast<uint64_t*>(to);
  auto* in = static_cast<const uint64_t*>(shared);
  for (size_t i = 0; i < bytes / 8; ++i) out[i] = __atomic_load_n(in + i, __ATOMIC_RELAXED);
}

inline void CopyToShared(void* shared, const void* from, size_t bytes) {
  auto* out = static_cast<uint64_t*>(shared);
  auto* in = static_cast<const uint64_t*>(from);
  for (size_t i = 0; i < bytes / 8; ++i) __atomic_store_n(out + i, in[i], __ATOMIC_RELAXED);
}

}  // namespace ultraep

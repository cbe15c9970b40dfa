// The ring through which the planner hands recorded steps to whoever records them: a sealed memfd that
// the daemon makes, one writer (the planner), one reader (`ultraepctl trace record`). The writer never
// waits and never trusts: a reader's position that cannot be is as good as a full ring, and a step
// that does not fit is dropped and counted.
//
// A record: TraceRecord | load u32[ranks][experts], padded to 8 | Replica[replicas].
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "protocol/plan.h"
#include "protocol/words.h"

namespace ultraep {

//    0       8          16           24     32      36           40        42       44         48
//   +-------+----------+------------+------+-------+------------+---------+--------+----------+
//   | bytes | sequence | generation | time | layer | microbatch | verdict | reason | replicas |
//   +-------+----------+------------+------+-------+------------+---------+--------+----------+
//    48                    80         88                                                        96
//   +---------------------+----------+------+
//   | certificate (4 u64) | solve_ns | zero |
//   +---------------------+----------+------+
struct TraceRecord {
  uint64_t bytes = 0;  // of the whole record
  uint64_t sequence = 0;
  uint64_t generation = 0;
  uint64_t time_ns = 0;  // CLOCK_REALTIME
  uint32_t layer = 0;
  uint32_t microbatch = 0;
  uint16_t verdict = 0;  // Verdict
  uint16_t reason = 0;   // FallbackReason
  uint32_t replicas = 0;
  Certificate certificate;
  uint64_t solve_ns = 0;
  uint64_t zero = 0;
};
static_assert(sizeof(TraceRecord) == 96 && alignof(TraceRecord) == 8 &&
                  offsetof(TraceRecord, certificate) == 48,
              "bump kLayoutVersion");

//    0       128     256        384        512                                     512 + capacity
//   +-------+-------+----------+----------+---------------------------------------+
//   | head  | tail  | dropped  | capacity | bytes, positions modulo capacity      |
//   +-------+-------+----------+----------+---------------------------------------+
// head: bytes ever written (writer). tail: bytes ever read (reader). dropped: steps (writer).
// capacity: a power of two (writer, once).
struct TraceRing {
  Word head, tail, dropped, capacity;

  unsigned char* data() { return reinterpret_cast<unsigned char*>(this) + sizeof(TraceRing); }
  const unsigned char* data() const {
    return reinterpret_cast<const unsigned char*>(this) + sizeof(TraceRing);
  }
};
static_assert(sizeof(TraceRing) == 512 && alignof(TraceRing) == kLine &&
                  offsetof(TraceRing, capacity) == 384,
              "bump kLayoutVersion");

inline uint64_t TraceRecordBytes(const PlanShape& shape, uint32_t replicas) {
  return sizeof(TraceRecord) + RoundUp(uint64_t{shape.ranks} * shape.experts * 4, 8) +
         uint64_t{replicas} * sizeof(Replica);
}

// Calls copy(place in the ring, bytes done, bytes) for the pieces of `bytes` at position `at`: two, the
// second one from the ring's begin, often empty. Multiples of 8 throughout.
template <class Copy>
void AroundRing(uint64_t capacity, uint64_t at, uint64_t bytes, Copy copy) {
  const uint64_t begin = at & (capacity - 1);
  const uint64_t first = std::min(bytes, capacity - begin);
  copy(begin, uint64_t{0}, first);
  copy(uint64_t{0}, first, bytes - first);
}

}  // namespace ultraep

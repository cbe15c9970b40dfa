// The head of every shared segment. A reader checks it before it looks further.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "protocol/version.h"
#include "protocol/words.h"

namespace ultraep {

enum class SegmentKind : uint16_t { kRankBoard = 1, kPlanBoard = 2, kVerdictBoard = 3, kSlots = 4 };

//    0       4         6      8       16           24     28      32        36      40
//   +-------+---------+------+-------+------------+------+-------+---------+-------+
//   | magic | version | kind | bytes | generation | rank | ranks | experts | slots |
//   +-------+---------+------+-------+------------+------+-------+---------+-------+
//    40       44          48
//   +--------+-----------+------+
//   | window | slot_sets | zero |  256
//   +--------+-----------+------+
struct alignas(kLine) SegmentHeader {
  uint32_t magic = 0;
  uint16_t version = 0;
  uint16_t kind = 0;
  uint64_t bytes = 0;
  uint64_t generation = 0;
  uint32_t rank = 0;  // of a rank board or slots, else 0
  uint32_t ranks = 0;
  uint32_t experts = 0;
  uint32_t slots = 0;
  uint32_t window = 0;
  uint32_t slot_sets = 0;
  unsigned char zero[208] = {};

  bool operator==(const SegmentHeader& o) const {
    return magic == o.magic && version == o.version && kind == o.kind && bytes == o.bytes &&
           generation == o.generation && rank == o.rank && ranks == o.ranks &&
           experts == o.experts && slots == o.slots && window == o.window &&
           slot_sets == o.slot_sets;
  }
};
static_assert(sizeof(SegmentHeader) == 256 && alignof(SegmentHeader) == kLine,
              "bump kLayoutVersion");
static_assert(offsetof(SegmentHeader, window) == 40, "bump kLayoutVersion");

}  // namespace ultraep

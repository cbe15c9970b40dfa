// Where everything lies in a group's shared memory: rank boards and plan board. What the verdict
// board and the slots hold stands in verdict_board.h and slot_board.h. Offsets are computed in
// these files and nowhere else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "protocol/group_config.h"
#include "protocol/plan_record.h"
#include "protocol/rank_statistics.h"
#include "protocol/segment.h"
#include "protocol/slot_board.h"
#include "protocol/verdict_board.h"
#include "protocol/words.h"

namespace ultraep {

// What a submitted row says about itself.
//
//    0            8          16      20           24       32      40
//   +------------+----------+-------+------------+--------+-------+------+
//   | generation | sequence | layer | microbatch | tokens | flags | zero | 128
//   +------------+----------+-------+------------+--------+-------+------+
struct RowHeader {
  uint64_t generation = 0;
  uint64_t sequence = 0;
  uint32_t layer = 0;
  uint32_t microbatch = 0;
  uint64_t tokens = 0;  // sum of the row
  uint64_t flags = 0;   // none yet
  unsigned char zero[88] = {};
};
static_assert(offsetof(RowHeader, tokens) == 24 && offsetof(RowHeader, zero) == 40,
              "bump kLayoutVersion");
static_assert(sizeof(RowHeader) == kLine && alignof(RowHeader) == 8, "bump kLayoutVersion");

// Written by one rank, read by the daemon and the members.
//
//    0                256         384        512            640       1664         2560
//   +----------------+-----------+----------+--------------+---------+------------+
//   | SegmentHeader  | heartbeat | sleeping | accept pulse | accepts | statistics |
//   +----------------+-----------+----------+--------------+---------+------------+
//    2560: K x { stamp word | RowHeader | row u32[experts], padded to 128 }
//
// heartbeat: CLOCK_MONOTONIC ns. sleeping: how many of the rank's threads wait on the verdict
// board's pulse. accepts: one word per slot set, the number of an operation (rule 6) for which the
// set's slots on this rank may be written now; it says at once that the one before is released and
// that this rank is in the same operation as the sender. accept pulse: raised with each of them.
// statistics: for people, nobody decides by them. stamp: sequence + 1, stored after row and header.
struct RankBoard {
  SegmentHeader header;
  Word heartbeat;
  Word sleeping;
  Pulse accept_pulse;
  Word accepts[kMaxSlotSets];
  RankStatistics statistics;
};
static_assert(sizeof(RankBoard) == 2560 && alignof(RankBoard) == kLine, "bump kLayoutVersion");
static_assert(offsetof(RankBoard, accepts) == 640 && offsetof(RankBoard, statistics) == 1664,
              "bump kLayoutVersion");

// A member as the daemon knows it.
// kJoined: it waits for the generation, or maps it.
enum class MemberState : uint64_t {
  kAbsent = 0,
  kJoined = 1,
  kReady = 2,
  kLeft = 3,
  kGone = 4,
  kFenced = 5
};

// Written by the daemon alone (sealed against all other writers), read by the members.
//
//    0                256         384        512        512 + 128 G     + 128 K
//   +----------------+-----------+----------+----------+--------------+---------------+
//   | SegmentHeader  | heartbeat | sleeping | member[G]| collected[K] | K PlanRecords |
//   +----------------+-----------+----------+----------+--------------+---------------+
//
// sleeping: 1 while the planner waits for a doorbell. collected: sequence + 1, stored once the
// daemon has its private copy of all G rows of the step.
struct PlanBoard {
  SegmentHeader header;
  Word heartbeat;
  Word sleeping;
};
static_assert(sizeof(PlanBoard) == 512 && alignof(PlanBoard) == kLine, "bump kLayoutVersion");

// The files (sealed memfds) that hold a generation's segments, in the order of their descriptors.
// Three, however many ranks there are: the kernel limits how many descriptors one user may have on
// their way in sockets, and whoever does not read his must not stop others.
enum class SegmentFile : uint32_t { kPlan = 0, kBoards = 1, kSlots = 2 };
inline constexpr uint32_t kSegmentFiles = 3;
// Where a segment may begin in its file: a page of every supported machine.
inline constexpr uint64_t kSegmentAlign = 65536;
// A rank's slots on a GPU are a multiple of this: of what CUDA gives out.
inline constexpr uint64_t kDeviceAlign = 2 * 1024 * 1024;

// All offsets of a group's segments.
class GroupLayout : public SlotLayout {
 public:
  explicit GroupLayout(const GroupConfig& c) : SlotLayout(c), config(c), record(c.shape()) {
    row_stride = 2 * kLine + RoundUp(uint64_t{c.experts} * 4, kLine);
    rank_board_bytes = sizeof(RankBoard) + row_stride * c.window;
    collected_at = sizeof(PlanBoard) + uint64_t{c.ranks} * sizeof(Word);
    records_at = collected_at + uint64_t{c.window} * sizeof(Word);
    plan_board_bytes = records_at + record.bytes * c.window;
    verdict_board_bytes = VerdictBoardBytes(c.window);
  }

  uint64_t bytes(SegmentKind kind) const {
    switch (kind) {
      case SegmentKind::kRankBoard:
        return rank_board_bytes;
      case SegmentKind::kPlanBoard:
        return plan_board_bytes;
      case SegmentKind::kVerdictBoard:
        return verdict_board_bytes;
      case SegmentKind::kSlots:
        return slot_board_bytes;
    }
    return 0;
  }
  static SegmentFile file(SegmentKind kind) {
    if (kind == SegmentKind::kPlanBoard) return SegmentFile::kPlan;
    return kind == SegmentKind::kSlots ? SegmentFile::kSlots : SegmentFile::kBoards;
  }
  // Of the segment in its file; rank: 0 for a segment of the whole group.
  uint64_t offset(SegmentKind kind, uint32_t rank) const {
    const uint64_t before =
        kind == SegmentKind::kRankBoard ? RoundUp(verdict_board_bytes, kSegmentAlign) : 0;
    return before + RoundUp(bytes(kind), kSegmentAlign) * rank;
  }
  uint64_t file_bytes(SegmentFile file) const {
    switch (file) {
      case SegmentFile::kPlan:
        return RoundUp(plan_board_bytes, kSegmentAlign);
      case SegmentFile::kBoards:
        return offset(SegmentKind::kRankBoard, config.ranks);
      case SegmentFile::kSlots:
        return config.on_device() ? 0 : offset(SegmentKind::kSlots, config.ranks);
    }
    return 0;
  }
  // The files that there are: the slots' is the last.
  uint32_t files() const { return config.on_device() ? kSegmentFiles - 1 : kSegmentFiles; }
  // Of one rank's slots on a GPU; 0 in host memory.
  uint64_t device_bytes() const {
    return config.on_device() ? RoundUp(slot_board_bytes, kDeviceAlign) : 0;
  }
  // Calls f(kind, rank) for every segment of the group that is in host memory.
  template <class F>
  void ForEachSegment(F f) const {
    f(SegmentKind::kPlanBoard, 0u);
    f(SegmentKind::kVerdictBoard, 0u);
    for (uint32_t r = 0; r < config.ranks; ++r) f(SegmentKind::kRankBoard, r);
    if (config.on_device()) return;
    for (uint32_t r = 0; r < config.ranks; ++r) f(SegmentKind::kSlots, r);
  }
  // What all ranks of the group need together, in host memory.
  uint64_t total_bytes() const {
    return file_bytes(SegmentFile::kPlan) + file_bytes(SegmentFile::kBoards) +
           file_bytes(SegmentFile::kSlots);
  }
  SegmentHeader Header(SegmentKind kind, uint32_t rank, uint64_t generation) const {
    SegmentHeader h;
    h.magic = kMagic;
    h.version = kLayoutVersion;
    h.kind = uint16_t(kind);
    h.bytes = bytes(kind);
    h.generation = generation;
    h.rank = rank;
    h.ranks = config.ranks;
    h.experts = config.experts;
    h.slots = config.slots;
    h.window = config.window;
    h.slot_sets = config.slot_sets;
    return h;
  }

  const GroupConfig config;
  const PlanRecordLayout record;
  uint64_t row_stride = 0, rank_board_bytes = 0;
  uint64_t collected_at = 0, records_at = 0, plan_board_bytes = 0;
  uint64_t verdict_board_bytes = 0;
};

// The addresses at which one process sees a group's segments. Does not own them.
struct Boards {
  const GroupLayout* layout = nullptr;
  std::vector<unsigned char*> rank_base;  // [ranks]
  std::vector<unsigned char*> slot_base;  // [ranks]; empty in the daemon
  unsigned char* plan_base = nullptr;
  unsigned char* verdict_base = nullptr;

  // The next segment of this kind: ranks in their order.
  void Place(SegmentKind kind, unsigned char* base) {
    switch (kind) {
      case SegmentKind::kPlanBoard:
        plan_base = base;
        break;
      case SegmentKind::kVerdictBoard:
        verdict_base = base;
        break;
      case SegmentKind::kRankBoard:
        rank_base.push_back(base);
        break;
      case SegmentKind::kSlots:
        slot_base.push_back(base);
        break;
    }
  }

  RankBoard& rank(uint32_t r) const { return *reinterpret_cast<RankBoard*>(rank_base[r]); }
  PlanBoard& plan() const { return *reinterpret_cast<PlanBoard*>(plan_base); }
  VerdictBoard& verdict() const { return *reinterpret_cast<VerdictBoard*>(verdict_base); }
  SlotBoard& slots(uint32_t r) const { return *reinterpret_cast<SlotBoard*>(slot_base[r]); }

  Word& gate() const { return verdict().gate; }
  Pulse& pulse() const { return verdict().pulse; }
  Word& word(uint64_t sequence) const {
    return verdict().words()[sequence % (2 * layout->config.window)];
  }
  Word& stamp(uint32_t r, uint64_t sequence) const {
    return *reinterpret_cast<Word*>(row_slot(r, sequence));
  }
  unsigned char* row_header(uint32_t r, uint64_t sequence) const {
    return row_slot(r, sequence) + kLine;
  }
  unsigned char* row(uint32_t r, uint64_t sequence) const {
    return row_slot(r, sequence) + 2 * kLine;
  }
  Word& member(uint32_t r) const {
    return reinterpret_cast<Word*>(plan_base + sizeof(PlanBoard))[r];
  }
  Word& collected(uint64_t sequence) const {
    return reinterpret_cast<Word*>(plan_base +
                                   layout->collected_at)[sequence % layout->config.window];
  }
  unsigned char* record(uint64_t sequence) const {
    return plan_base + layout->records_at +
           layout->record.bytes * (sequence % layout->config.window);
  }
  // The layout must outlive the view.
  SlotView slot_view() const { return {layout, slot_base.data()}; }
  std::atomic<uint64_t>& chunk_flag(uint32_t r, uint32_t set, uint32_t slot, uint64_t chunk) const {
    return slot_view().chunk_flags(r, set, slot)[chunk];
  }
  unsigned char* shard(uint32_t r, uint32_t set, uint32_t slot, uint32_t shard) const {
    return slot_view().shard(r, set, slot, shard);
  }

 private:
  unsigned char* row_slot(uint32_t r, uint64_t sequence) const {
    return rank_base[r] + sizeof(RankBoard) +
           layout->row_stride * (sequence % layout->config.window);
  }
};

}  // namespace ultraep

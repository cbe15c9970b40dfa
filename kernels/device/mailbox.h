// The plugin-owned pinned memory through which kernels and the plugin's carrier thread talk. Its
// address never changes, so a captured CUDA graph stays valid over generations and daemon restarts.
//
//   kernels write    rows, failures, how many operations began and ended, totals
//   the carrier      verdicts with their plan images, memories, who is gone, when to stop
//
// Both sides publish by data, then a release store of the stamp beside it (system scope).
// Everything that several kernels may write at once is changed by the device's own atomics; the
// carrier only reads it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kernels/device/plan_image.h"
#include "protocol/group_config.h"
#include "protocol/host_device.h"
#include "protocol/transfer_totals.h"
#include "protocol/words.h"

namespace ultraep {

// Generations of slot memory that kernels may still work on, the present one included.
inline constexpr uint32_t kMemories = 4;

// Why a kernel could not go on. `a` and `b` of a FailureNote mean what stands behind each.
enum class DeviceFailure : uint64_t {
  kNone = 0,
  kBeingWritten = 1,
  kBadId = 2,         // a: index among the step's ids, b: the id (as int32)
  kNoVerdict = 3,     // the await kernel's bound has passed
  kNotAccepted = 4,   // a: rank that did not accept the stream in time or is gone
  kNoChunk = 5,       // a: transfer whose chunk has not come, b: chunk
  kNoGradient = 6,    // a: rank that has not published, b: expert
  kNotTaken = 7,      // a: home that has not taken the slot's last gradient, b: slot
  kCountsDiffer = 8,  // a: expert, b: what the ids say (the row says otherwise)
  kSetInUse = 9,      // a: slot set, b: sequence of the step that uses it
  kOrder = 10,        // calls in an impossible order; a: the kernel (enum Kernel)
  kStopped = 11,      // the generation has failed elsewhere
};

//    0       128        136 144 152                    256
//   +-------+----------+---+---+--------+-----------------+
//   | code  | sequence | a | b | memory | nothing         |
//   +-------+----------+---+---+--------+-----------------+
// code: a DeviceFailure, changed from kNone by whoever comes first; the carrier sets it back to
// kNone once it has read the note. memory: that the kernel worked on, kMemories: none.
struct FailureNote {
  Word code;
  uint64_t sequence;
  uint64_t a;
  uint64_t b;
  uint64_t memory;
  unsigned char zero[96];
};
static_assert(sizeof(FailureNote) == 256 && alignof(FailureNote) == kLine &&
                  offsetof(FailureNote, sequence) == 128,
              "device and host code are built together");

//    0         256       768        1280       1792       1920   2048     2176    2304      2432
//   +---------+---------+----------+----------+----------+------+--------+-------+--------+
//   | failure | stop[4] | begun[4] | ended[4] | resolved | lost | closed | taken | totals |
//   +---------+---------+----------+----------+----------+------+--------+-------+--------+
// stop, begun, ended: [memory]. stop: 1 once the memory's generation has failed or the rank leaves:
// every wait ends. begun, ended: operations (streams, reductions) that kernels have begun and ended
// there. resolved: the sequence that the next await kernel is for, stored once its operations'
// memory is the new one: only then, with begun and ended equal, may an older memory be unmapped.
// lost: pieces of work that could not be done, or were not tried because the memory had failed:
// whoever looks after a step and finds more than before knows that the step's results are not to be
// used. closed: 1 once the carrier is gone: no verdict comes any more. taken: rows below it have
// been read; kernels look once an await has given up, since then they are ahead of the carrier.
// totals: since the client began.
struct MailboxHead {
  FailureNote failure;
  Word stop[kMemories];
  Word begun[kMemories];
  Word ended[kMemories];
  Word resolved;
  Word lost;
  Word closed;
  Word taken;
  TransferTotals totals;
};
static_assert(sizeof(MailboxHead) == 2432 && alignof(MailboxHead) == kLine &&
                  offsetof(MailboxHead, totals) == 2304,
              "device and host code are built together");

// A submitted row: what the kernels say of it. stamp: sequence + 1, stored last.
//
//    0       128        136     140          144      152      160           168
//   +-------+----------+-------+------------+--------+--------+-------------+-------------+
//   | stamp | sequence | layer | microbatch | tokens | faults | fault index | fault value | 256
//   +-------+----------+-------+------------+--------+--------+-------------+-------------+
//   row u32[experts] follows
struct MailboxRow {
  Word stamp;
  uint64_t sequence;
  uint32_t layer;
  uint32_t microbatch;
  uint64_t tokens;
  uint64_t faults;       // ids that are neither -1 nor an expert
  uint64_t fault_index;  // of the first one
  int64_t fault_value;
  unsigned char zero[80];

  ULTRAEP_HOST_DEVICE uint32_t* row() { return reinterpret_cast<uint32_t*>(this + 1); }
};
static_assert(sizeof(MailboxRow) == 256 && alignof(MailboxRow) == kLine &&
                  offsetof(MailboxRow, tokens) == 144,
              "device and host code are built together");

// A memory as the carrier describes it, before the first verdict that names it: generation, then
// bases u64[ranks] (where this GPU sees the ranks' slot boards), then gone u64[ranks] (1: the rank
// left, died or was fenced).
//
//    0            128                     128 + 8 ranks (to a line)
//   +------------+-----------------------+----------------------+
//   | generation | bases[ranks]          | gone[ranks]          |
//   +------------+-----------------------+----------------------+
struct MailboxMemory {
  Word generation;

  ULTRAEP_HOST_DEVICE uint64_t* bases() { return reinterpret_cast<uint64_t*>(this + 1); }
  ULTRAEP_HOST_DEVICE std::atomic<uint64_t>* gone(uint32_t ranks) {
    return reinterpret_cast<std::atomic<uint64_t>*>(reinterpret_cast<unsigned char*>(this + 1) +
                                                    (uint64_t{ranks} * 8 + kLine - 1) / kLine *
                                                        kLine);
  }
};
static_assert(sizeof(MailboxMemory) == kLine && alignof(MailboxMemory) == kLine,
              "device and host code are built together");

// Where everything lies in a mailbox. Plain data, for host and device.
//
//   MailboxHead | window x MailboxRow with its row | window x { stamp Word | PlanImage } |
//   kMemories x MailboxMemory
struct MailboxLayout {
  MailboxLayout() = default;
  MailboxLayout(const GroupConfig& c, uint64_t image_bytes) : window(c.window), ranks(c.ranks) {
    rows_at = sizeof(MailboxHead);
    row_stride = sizeof(MailboxRow) + RoundUp(uint64_t{c.experts} * 4, kLine);
    verdicts_at = rows_at + row_stride * window;
    verdict_stride = sizeof(Word) + RoundUp(image_bytes, kLine);
    memories_at = verdicts_at + verdict_stride * window;
    memory_stride = sizeof(MailboxMemory) + 2 * RoundUp(uint64_t{ranks} * 8, kLine);
    bytes = memories_at + memory_stride * kMemories;
  }

  uint32_t window = 0, ranks = 0;
  uint64_t rows_at = 0, row_stride = 0;
  uint64_t verdicts_at = 0, verdict_stride = 0;
  uint64_t memories_at = 0, memory_stride = 0;
  uint64_t bytes = 0;
};

// A mailbox at an address: the host's or the device's. Does not own it.
struct MailboxView {
  unsigned char* at = nullptr;
  MailboxLayout layout;

  ULTRAEP_HOST_DEVICE MailboxHead& head() const { return *reinterpret_cast<MailboxHead*>(at); }
  ULTRAEP_HOST_DEVICE MailboxRow& row(uint64_t sequence) const {
    return *reinterpret_cast<MailboxRow*>(at + layout.rows_at +
                                          layout.row_stride * (sequence % layout.window));
  }
  // sequence + 1 once the image behind it is complete.
  ULTRAEP_HOST_DEVICE Word& verdict(uint64_t sequence) const {
    return *reinterpret_cast<Word*>(at + layout.verdicts_at +
                                    layout.verdict_stride * (sequence % layout.window));
  }
  ULTRAEP_HOST_DEVICE unsigned char* image(uint64_t sequence) const {
    return reinterpret_cast<unsigned char*>(&verdict(sequence) + 1);
  }
  ULTRAEP_HOST_DEVICE MailboxMemory& memory(uint32_t index) const {
    return *reinterpret_cast<MailboxMemory*>(at + layout.memories_at +
                                             layout.memory_stride * index);
  }
};

}  // namespace ultraep

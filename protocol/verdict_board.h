// The verdict board: the one decision per step (rule 2) and the gate of the generation (rule 0).
// Compare-exchange only, by daemon and ranks alike.
#pragma once

#include <atomic>
#include <cstdint>

#include "protocol/segment.h"
#include "protocol/test_points.h"
#include "protocol/words.h"

namespace ultraep {

enum class GateState : uint8_t { kClosed = 0, kOpen = 1, kEnded = 2, kFailed = 3, kDead = 4 };
enum class Verdict : uint8_t { kNone = 0, kPlan = 1, kFallback = 2, kSent = 3, kFailed = 4 };

struct Gate {
  GateState state = GateState::kClosed;
  uint64_t value = 0;  // n while closed, s0 once named

  bool over() const { return state >= GateState::kEnded; }
  bool admits(uint64_t sequence) const { return state == GateState::kOpen && sequence >= value; }

  static Gate Decode(uint64_t word) { return {GateState(word & 7), word >> 3}; }
  uint64_t Encode() const { return value << 3 | uint64_t(state); }
};

struct VerdictWord {
  uint64_t next = 0;  // sequence + 1; 0 = never used
  Verdict verdict = Verdict::kNone;

  static VerdictWord Decode(uint64_t word) { return {word >> 3, Verdict(word & 7)}; }
  uint64_t Encode() const { return next << 3 | uint64_t(verdict); }
};

// Sequences live in 61 bits with one to spare.
inline constexpr uint64_t kMaxSequence = (uint64_t{1} << 60) - 1;

//    0                256    384     512        512 + 128 * 2K
//   +----------------+------+-------+----------+
//   | SegmentHeader  | gate | pulse | words[2K]|   a word or pulse on each 128 bytes
//   +----------------+------+-------+----------+
//
// gate    value << 3 | state: CLOSED(n) -> OPEN(s0) | DEAD; OPEN(s0) -> ENDED(s0) | FAILED(s0);
//         ENDED(s0) -> FAILED(s0). s0 never changes once named.
// word    (sequence + 1) << 3 | state, 0 before first use. A larger sequence takes the word over.
//         2K of them: a rank may be K steps behind the first, and once the gate is over that one
//         may propose FALLBACK for its K open steps. It holds only because before that nobody
//         proposes FALLBACK without `collected`: no rank runs ahead alone.
// pulse   counts changes of gate and words; sleepers wait on it.
struct VerdictBoard {
  SegmentHeader header;
  Word gate;
  Pulse pulse;
  // Word words[2 * window] follow.

  Word* words() { return reinterpret_cast<Word*>(this + 1); }
};
static_assert(sizeof(VerdictBoard) == 512 && alignof(VerdictBoard) == kLine, "bump kLayoutVersion");
static_assert(offsetof(VerdictBoard, gate) == 256 && offsetof(VerdictBoard, pulse) == 384,
              "bump kLayoutVersion");

inline uint64_t VerdictBoardBytes(uint32_t window) {
  return sizeof(VerdictBoard) + uint64_t{2} * window * sizeof(Word);
}

inline Gate LoadGate(const Word& gate) {
  return Gate::Decode(gate.value.load(std::memory_order_seq_cst));
}

// Moves the gate by `step(Gate) -> Gate` until it sticks; a step that changes nothing stops.
// Returns the gate as it then is; `changed` says whether this call moved it.
template <class Step>
Gate MoveGate(Word& gate, Step step, bool* changed = nullptr) {
  uint64_t seen = gate.value.load(std::memory_order_seq_cst);
  for (;;) {
    const Gate now = Gate::Decode(seen);
    const Gate next = step(now);
    if (changed) *changed = next.Encode() != seen;
    if (next.Encode() == seen) return now;
    ULTRAEP_POINT("gate:before");
    if (gate.value.compare_exchange_weak(seen, next.Encode(), std::memory_order_seq_cst)) {
      ULTRAEP_POINT("gate:moved");
      return next;
    }
  }
}

// Rule 0: a rank that passes step `sequence` on its own (or joins with it as its next) raises n.
inline Gate RaiseGate(Word& gate, uint64_t at_least) {
  return MoveGate(gate, [&](Gate g) {
    if (g.state == GateState::kClosed && g.value < at_least) g.value = at_least;
    return g;
  });
}

// The daemon, once all members are ready: s0 = n.
inline Gate OpenGate(Word& gate) {
  return MoveGate(gate, [](Gate g) {
    if (g.state == GateState::kClosed) g.state = GateState::kOpen;
    return g;
  });
}

// Whoever knows the daemon or a member gone, or gives up waiting.
inline Gate EndGate(Word& gate, bool* changed = nullptr) {
  return MoveGate(
      gate,
      [](Gate g) {
        if (g.state == GateState::kOpen) g.state = GateState::kEnded;
        if (g.state == GateState::kClosed) g.state = GateState::kDead;
        return g;
      },
      changed);
}

// Rule 3: a rank that cannot follow a PLAN.
inline Gate FailGate(Word& gate, bool* changed = nullptr) {
  return MoveGate(
      gate,
      [](Gate g) {
        if (g.state == GateState::kOpen || g.state == GateState::kEnded)
          g.state = GateState::kFailed;
        return g;
      },
      changed);
}

// Proposes a verdict for a step. Whoever wins, the returned word decides; `won` says whether it was
// this proposal. A word that already belongs to a later step is returned as it is (lapped).
inline VerdictWord Propose(Word& word, uint64_t sequence, Verdict verdict, bool* won) {
  uint64_t seen = word.value.load(std::memory_order_acquire);
  *won = false;
  for (;;) {
    const VerdictWord now = VerdictWord::Decode(seen);
    if (now.next >= sequence + 1) return now;
    const VerdictWord next{sequence + 1, verdict};
    ULTRAEP_POINT("verdict:before");
    if (word.value.compare_exchange_weak(seen, next.Encode(), std::memory_order_seq_cst,
                                         std::memory_order_acquire)) {
      *won = true;
      ULTRAEP_POINT("verdict:set");
      return next;
    }
  }
}

}  // namespace ultraep

// The agreement of one generation: gate, promise, window, verdict words, daemon and member crashes.
//
//   board    gate CLOSED(n) -> OPEN(s0) -> ENDED(s0) -> FAILED(s0), CLOSED -> DEAD
//            2K verdict words; K collected words; K records; per rank K rows with a stamp
//   member   outside - join -> mapped - raise n -> attached - say ready -> ready
//   step     gate passed, row, stamp, word, gate again, record; then an outcome
//   daemon   copies the rows rank by rank, collected, record, PLAN
//
// Every atomic operation is one move. Rows and records are copied in two halves. A word, row,
// record or stamp of step s holds s + 1; 0 is "never written".
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "gate.h"
#include "search.h"

namespace ultraep::model {

constexpr int kMaxRanks = 4, kMaxWindow = 2, kMaxSteps = 6;

enum Member : uint8_t { kOutside, kMapped, kAttached, kReady, kGone, kCrashed };
// clang-format off
enum Stage : uint8_t {
  kIdle, kPassed, kHalfRow, kWholeRow, kSubmitted, kMayPropose, kSawPlan, kGateSeen, kHalfRecord,
  kPlanned, kFellBack, kDeclined, kLost, kTold  // outcomes; kLost: a PLAN that cannot be followed
};
// clang-format on
enum Fault : uint8_t { kFine, kTornRow, kTornRecord, kLapped, kFailedForgotten };
constexpr const char* kFaultText[] = {
    nullptr, "PLAN from a torn or overwritten row", "a torn or overwritten record is used",
    "a live rank finds its word lapped", "FAILED is lost: the step's word is used again"};

struct Board : GateWord {
  Word words[2 * kMaxWindow];
  uint8_t collected[kMaxWindow], record[kMaxWindow][2];
  uint8_t stamp[kMaxRanks][kMaxWindow], row[kMaxRanks][kMaxWindow][2];
};

struct Rank {
  Member member;
  uint8_t next, next_at_join;
  Stage stage[kMaxSteps];
};

struct Daemon {
  uint8_t crashed, step, phase, torn;
};

// The options, the properties, and the operations of one generation's words.
struct VerdictBoard {
  struct State {
    Board board;
    Rank ranks[kMaxRanks];
    Daemon daemon;
    uint8_t rank_crashes, failures;
    Fault fault;
  };

  int ranks = 2, window = 1, steps = 3, clocks = 2;
  int daemon_crashes = 1, rank_crashes = 1, failures = 1, mismatches = 1;
  bool local_fallback = false, submit_early = false, plan_before_record = false;
  bool join_opens = false, short_ring = false, decline_silently = false;
  bool fallback_before_end = false, plain_store = false, attach_after_ready = false;
  bool failed_as_fallback = false, failed_in_word = false;

  State Initial() const { return {}; }
  std::string Describe(const Move& m) const {
    return (m.rank < 0 ? "daemon " : "rank " + std::to_string(m.rank) + " ") + m.deed +
           (m.number < 0 ? "" : " " + std::to_string(m.number));
  }

  const char* Violation(const State& now) const {
    for (int s = 0; s < steps; ++s) {
      bool plan = false, lost = false, main_copies = false, declined = false;
      for (const Rank& rank : now.ranks) {
        const Stage stage = rank.stage[s];
        plan |= stage >= kSawPlan && stage <= kPlanned;
        lost |= stage == kLost;
        main_copies |= stage == kFellBack || stage == kDeclined;
        declined |= stage == kDeclined;
      }
      if (lost && main_copies) return "FAILED is read as FALLBACK";
      if (plan && main_copies) return "one step has PLAN on one rank and main copies on another";
      if (declined && InForce(now.board, s)) return "a step at or after s0 was declined";
    }
    return kFaultText[now.fault];
  }

  const char* AtRest(const State& now) const {
    const bool healthy = clocks + daemon_crashes + rank_crashes + failures + mismatches == 0;
    for (int i = 0; i < ranks * steps; ++i) {
      const Rank& rank = now.ranks[i % ranks];
      const int s = i / ranks;
      if (rank.member >= kGone) continue;
      if (rank.stage[s] < kPlanned) return "deadlock: a live rank does not finish its steps";
      if (healthy && InForce(now.board, s) && rank.stage[s] != kPlanned) {
        return "nobody is gone, yet a step at or after s0 has no PLAN";
      }
    }
    return nullptr;
  }

  bool Goal(const State& now) const {
    for (int i = 0; i < ranks * steps; ++i) {
      if (now.ranks[i % ranks].stage[i / ranks] != kPlanned) return false;
    }
    return true;
  }

  int Ring() const { return short_ring ? window : 2 * window; }
  bool Propose(Board& board, int step, Value value) const {
    Word& word = board.words[step % Ring()];
    if (word.tag > step && !plain_store) return false;
    word = {uint8_t(step + 1), value};
    return true;
  }
};

}  // namespace ultraep::model

// The agreement over several generations: boards made one after another, by one daemon or by its
// successor; ranks that leave, fail, die, come again, or are fenced in the middle of a write.
//
//   board    gate CLOSED(n) -> OPEN(s0) -> ENDED(s0) -> FAILED(s0), CLOSED -> DEAD; words,
//            collected, records, rows and stamps as in verdict_board.h
//   rank     outside - join -> mapped - raise n and route the calls here -> member - say ready ->
//            ready; joins again once its board is over and it has resolved what it promised there
//   daemon   makes a board at the first join that finds none in use; opens it when all are ready
//   memory   each load(s) takes the newest generation the rank belongs to whose named s0 <= s
//
// The board's own moves are coarser than in verdict_model.cc, which has them one by one: a row is
// one store, all rows are copied in one move, and a rank looks at word and gate in one move (both
// only grow). Steps resolve in order, as in the product. Boards are counted from 1; 0 is none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "gate.h"
#include "search.h"

namespace ultraep::model {

constexpr int kMaxRanks = 3, kMaxWindow = 2, kMaxSteps = 5, kMaxBoards = 3;

enum Life : uint8_t { kRuns, kStopped, kCrashed };
enum Member : uint8_t { kOutside, kMapped, kRaised, kMember, kReady };
// clang-format off
enum Stage : uint8_t {
  kIdle, kPassed, kWritten, kSubmitted, kSawPlan, kHalfRecord,
  kPlanned, kFellBack, kDeclined, kLost, kSkipped  // outcomes; kSkipped: not this process's step
};
// clang-format on
enum Fault : uint8_t {
  kFine, kTornRow, kTornRecord, kLapped, kMemoryDiffers, kMemoryElsewhere, kFailedForgotten
};
constexpr const char* kFaultText[] = {
    nullptr,
    "PLAN from a torn or overwritten row",
    "a torn or overwritten record is used",
    "a live rank finds its word lapped",
    "ranks use different memory for the same operation",
    "PLAN of a generation whose memory the rank does not use",
    "FAILED is lost: a rank goes on without having reported it"};

struct Board : GateWord {
  Word words[2 * kMaxWindow];
  uint8_t collected[kMaxWindow], record[kMaxWindow][2];
  uint8_t stamp[kMaxRanks][kMaxWindow], row[kMaxRanks][kMaxWindow];
};

struct Rank {
  Life life;
  Member member;
  uint8_t joining, board;  // the board being mapped; the board whose gate the calls pass
  uint8_t mine;            // generations it belongs to and has not switched to, one bit each
  uint8_t memory;          // generation in use; kNoMemory: a new process before its first
  uint8_t next, next_at_join;
  uint8_t told, owes;  // FAILED of `board` was reported; that of an earlier one was not
  uint8_t looked;      // switch_before_gate only
  Stage stage[kMaxSteps];
};
constexpr uint8_t kNoMemory = 255;

struct Daemon {
  uint8_t down, first;                   // boards before `first` are those of a dead daemon
  uint8_t current, joined, ready, gone;  // the board in use and who is there, one bit per rank
  uint8_t board, step, phase, torn;      // the planner may still be busy on an older board
};

// The options, the properties, and the operations of one generation's words.
struct GenerationBoard {
  struct State {
    Board boards[kMaxBoards];
    Rank ranks[kMaxRanks];
    Daemon daemon;
    uint8_t made;                  // boards
    uint8_t memory_at[kMaxSteps];  // generation + 1 that the operation of this step uses
    uint8_t daemon_crashes, rank_crashes, respawns, stops, failures;
    Fault fault;
  };

  int ranks = 2, window = 1, steps = 3, boards = 2, clocks = 0;
  int daemon_crashes = 1, rank_crashes = 0, respawns = 0, stops = 0, failures = 0;
  bool switch_before_gate = false;
  bool switch_at_join = false, forget_generation = false, leave_quietly = false;
  bool rejoin_with_open_steps = false, join_opens = false, open_early = false;
  bool reuse_board = false, decline_silently = false, fence_quietly = false;
  bool route_after_raise = false, respawn_behind = false;
  bool fail_for_ever = false, forget_failed = false;

  State Initial() const {
    State start{};
    start.daemon.first = 1;
    return start;
  }
  std::string Describe(const Move& m) const {
    return (m.rank < 0 ? "daemon " : "rank " + std::to_string(m.rank) + " ") + m.deed +
           (m.number < 0 ? "" : " " + std::to_string(m.number));
  }

  const char* Violation(const State& now) const {
    for (int s = 0; s < steps; ++s) {
      bool plan = false, lost = false, main_copies = false;
      for (const Rank& rank : now.ranks) {
        const Stage stage = rank.stage[s];
        plan |= stage >= kSawPlan && stage <= kPlanned;
        lost |= stage == kLost;
        main_copies |= stage == kFellBack || stage == kDeclined;
        for (int b = 1; b <= now.made && stage == kDeclined; ++b) {
          if (InForce(now.boards[b - 1], s) && !Stranger(rank, b)) {
            return "a step at or after s0 was declined";
          }
        }
      }
      if (lost && main_copies) return "FAILED is read as FALLBACK";
      if (plan && main_copies) return "one step has PLAN on one rank and main copies on another";
    }
    return kFaultText[now.fault];
  }

  const char* AtRest(const State& now) const {
    bool all_run = !now.daemon.down;
    for (int r = 0; r < ranks; ++r) {
      const Rank& me = now.ranks[r];
      all_run &= me.life == kRuns;
      if (me.life != kRuns) continue;
      if (std::any_of(me.stage, me.stage + steps, [](Stage s) { return s < kPlanned; })) {
        return "deadlock: a live rank does not finish its steps";
      }
    }
    if (!all_run) return nullptr;
    const Board* last = now.daemon.current ? &now.boards[now.daemon.current - 1] : nullptr;
    if (!last || last->gate != kOpen) {
      return now.made == boards ? nullptr : "all are alive, yet they get no new generation";
    }
    for (int i = 0; i < ranks * steps; ++i) {
      const int s = i / ranks;
      if (clocks == 0 && s >= last->first && now.ranks[i % ranks].stage[s] != kPlanned) {
        return "nobody is gone, yet a step at or after the last s0 has no PLAN";
      }
    }
    return nullptr;
  }

  // PLAN on all ranks in a second generation: the group really recovers.
  bool Goal(const State& now) const {
    for (int s = 0; s < steps; ++s) {
      bool planned = now.memory_at[s] > 2;
      for (int r = 0; r < ranks; ++r) planned &= now.ranks[r].stage[s] == kPlanned;
      if (planned) return true;
    }
    return false;
  }

  static bool Named(const Board& board) { return board.gate > kClosed && board.gate < kDead; }
  // A new process that has nothing to do with the board: its predecessor was ready there, and the
  // generation ends as soon as anybody sees it gone.
  static bool Stranger(const Rank& rank, int board) {
    return rank.memory == kNoMemory && rank.board != board && rank.joining != board;
  }
  bool Propose(Board& board, int step, Value value) const {
    Word& word = board.words[step % (2 * window)];
    if (word.tag > step) return false;
    word = {uint8_t(step + 1), value};
    return true;
  }
  static bool Gone(const State& now, int board) {
    return now.daemon.down || board < now.daemon.first;
  }

  static bool HasOpenSteps(const Rank& me) {
    return std::any_of(me.stage, me.stage + me.next, [](Stage s) { return s < kPlanned; });
  }

  // The call that writes a row has not returned.
  bool Calling(const Rank& me) const {
    return std::any_of(me.stage, me.stage + steps,
                       [](Stage s) { return s == kPassed || s == kWritten; });
  }

  // Rule 8: the newest generation it belongs to whose named s0 <= s, over or not.
  void Switch(State& n, int r, int s) const {
    Rank& me = n.ranks[r];
    for (int b = 1; b <= n.made; ++b) {
      const Board& board = n.boards[b - 1];
      if (!(me.mine >> b & 1)) continue;
      if (board.gate == kDead) me.mine &= ~(1 << b);
      if (!Named(board) || board.first > s) continue;
      me.memory = b;
      me.mine &= ~((2 << b) - 1);
    }
  }
  void RecordMemory(State& n, const Rank& me, int s) const {
    if (me.memory == kNoMemory) return;
    if (n.memory_at[s] == 0) n.memory_at[s] = me.memory + 1;
    if (n.memory_at[s] != me.memory + 1) n.fault = kMemoryDiffers;
  }

  // What nobody can read any more is cleared: fewer states, and nothing is hidden.
  void Tidy(State& n) const {
    for (int b = 1; b <= n.made; ++b) {
      bool used = !n.daemon.down && (n.daemon.current == b || n.daemon.board == b), wanted = false;
      for (const Rank& rank : n.ranks) {
        used |= rank.board == b || rank.joining == b;
        wanted |= (rank.mine >> b & 1) && rank.next < steps;
      }
      if (used) continue;
      Board& board = n.boards[b - 1];
      const bool named = Named(board);
      const uint8_t first = board.first;
      board = {};
      board.gate = named && wanted ? kEnded : kDead;
      if (named && wanted) board.first = first;
    }
  }
};

}  // namespace ultraep::model

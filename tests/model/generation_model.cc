// Who may do what, when: the moves of the ranks, of the daemon and of its successor. State and
// properties are in generation_board.h; rule numbers are those of the design, section 5.
#include <algorithm>

#include "command_line.h"
#include "generation_board.h"

namespace ultraep::model {
namespace {

struct Generations : GenerationBoard {
  template <class Sink>
  void Successors(const State& now, Sink sink) const {
    auto tidy = [&](State& next, const Move& move) {
      Tidy(next);
      sink(next, move);
    };
    for (int r = 0; r < ranks; ++r) {
      Trouble(now, r, tidy);
      if (now.ranks[r].life != kRuns) continue;
      Join(now, r, tidy);
      Attach(now, r, tidy);
      EndGeneration(now, r, tidy);
      Load(now, r, tidy);
      Follow(now, r, tidy);
      CannotFollow(now, r, tidy);
    }
    Daemons(now, tidy);
  }

 private:
  // Rule 1: only from a board that is over, and only after every promise made there was kept. The
  // first to come makes the daemon make a board.
  template <class Sink>
  void Join(State n, int r, Sink& sink) const {
    Rank& me = n.ranks[r];
    Daemon& daemon = n.daemon;
    const uint8_t bit = 1 << r;
    if (daemon.down || (daemon.gone & bit) || me.member == kMapped || me.member == kRaised) return;
    if (me.board) {
      const bool leaves = leave_quietly && Gone(n, me.board);
      if (!Over(n.boards[me.board - 1]) && !leaves) return;
      if (HasOpenSteps(me) && !(rejoin_with_open_steps && !Calling(me))) return;
    }
    const Board* current = daemon.current ? &n.boards[daemon.current - 1] : nullptr;
    const bool abandoned = fence_quietly && current && daemon.joined == 0;
    if (!current || Over(*current) || abandoned) {
      const bool reuses = reuse_board && !current && n.made > 0;
      if (n.made == boards && !reuses) return;
      if (reuses) daemon.first = n.made;
      n.made += !reuses;
      n.boards[n.made - 1] = {};
      daemon.current = n.made;
      daemon.joined = daemon.ready = 0;
    } else if (current->gate != kClosed || (daemon.joined & bit)) {
      return;
    }
    daemon.joined |= bit;
    me.member = kMapped;
    me.joining = daemon.current;
    if (join_opens && n.made > 1) me.next_at_join = me.next;
    sink(n, Move{r, "joins, its next step is", me.next});
  }

  // Rule 0: n is raised and the calls take the new gate in one move, under the rank's lock.
  template <class Sink>
  void Attach(State n, int r, Sink& sink) const {
    Rank& me = n.ranks[r];
    if (me.member == kMember) {
      const uint8_t bit = 1 << r;
      if (n.daemon.down || me.board != n.daemon.current || !(n.daemon.joined & bit)) return;
      me.member = kReady;
      n.daemon.ready |= bit;
      return sink(n, Move{r, "says ready", -1});
    }
    if ((me.member != kMapped && me.member != kRaised) || me.looked) return;
    Board& board = n.boards[me.joining - 1];
    const uint8_t to = join_opens && me.joining > 1 ? me.next_at_join : me.next;
    const bool raised = me.member == kRaised;
    me.next_at_join = 0;
    if (board.gate != kClosed) {
      me.member = kOutside;
      me.joining = 0;
      return sink(n, Move{r, "finds the board it joined over already", -1});
    }
    if (!raised) Raise(board, to);
    if (route_after_raise && !raised) {
      me.member = kRaised;
      return sink(n, Move{r, "raises n, its calls still take the old gate; n is at least", to});
    }
    for (Stage& stage : me.stage) {  // none, but for rejoin_with_open_steps
      if (stage != kIdle && stage < kPlanned) stage = kFellBack;
    }
    if (me.board && n.boards[me.board - 1].gate == kFailed && !me.told) {
      if (forget_failed) n.fault = kFailedForgotten;
      me.owes = 1;
    }
    if (forget_generation) me.mine = 0;
    if (switch_at_join && me.joining > 1) me.memory = me.joining;
    me.mine |= 1 << me.joining;
    me.board = me.joining;
    me.joining = me.told = 0;
    me.member = kMember;
    sink(n, Move{r, "raises n and takes the new gate; n is at least", to});
  }

  // Rules 0 and 5: who knows the daemon gone, or waits no longer, ends the generation first.
  template <class Sink>
  void EndGeneration(State n, int r, Sink& sink) const {
    const Rank& me = n.ranks[r];
    if (!me.board || Over(n.boards[me.board - 1])) return;
    const bool gone = Gone(n, me.board);
    const bool waits = std::count(me.stage, me.stage + steps, kSubmitted) > 0;
    End(n.boards[me.board - 1]);
    if (gone && !(leave_quietly && !waits)) {
      sink(n, Move{r, "sees the daemon gone, ends the generation", -1});
    }
    if (!gone && clocks == 2 && waits) {
      sink(n, Move{r, "gives up waiting, ends the generation", -1});
    }
  }

  // Rules 0, 1, 3, 4 and 8: the next call; its first operation is on the gate.
  template <class Sink>
  void Load(State n, int r, Sink& sink) const {
    Rank& me = n.ranks[r];
    const int s = me.next;
    if (s == steps || Calling(me) || (s >= window && me.stage[s - window] < kPlanned)) return;
    Board* board = me.board ? &n.boards[me.board - 1] : nullptr;
    if (me.owes || (board && board->gate == kFailed && (!me.told || fail_for_ever))) {
      if (!me.owes) me.told = 1;
      me.owes = 0;
      return sink(n, Move{r, "is told that the generation has FAILED, not called: step", s});
    }
    if (switch_before_gate && !me.looked) {
      me.looked = 1;
      Switch(n, r, s);
      return sink(n, Move{r, "chooses its memory, has not been at the gate yet, step", s});
    }
    const bool raises = board && board->gate == kClosed && !(decline_silently && me.board > 1);
    const bool passes = board && InForce(*board, s);
    if (raises) Raise(*board, s + 1);
    me.stage[me.next++] = passes ? kPassed : kDeclined;
    if (!me.looked) Switch(n, r, s);
    me.looked = 0;
    RecordMemory(n, me, s);
    const char* declines = raises ? "raises n and declines step" : "declines step";
    sink(n, Move{r, passes ? "passes the gate with step" : declines, s});
  }

  // Rules 1 to 5: the oldest open step, from its row to its outcome.
  template <class Sink>
  void Follow(const State& now, int r, Sink& sink) const {
    const Rank& me = now.ranks[r];
    bool oldest = true;
    for (int s = 0; s < me.next; ++s) {
      const Stage stage = me.stage[s];
      if (stage >= kPlanned) continue;
      if (stage < kSubmitted) WriteRow(now, r, s, sink);
      if (stage >= kSubmitted && oldest) Await(now, r, s, sink);
      oldest = false;
    }
  }

  template <class Sink>
  void WriteRow(State n, int r, int s, Sink& sink) const {
    Rank& me = n.ranks[r];
    Board& board = n.boards[me.board - 1];
    const bool row = me.stage[s] == kPassed;
    (row ? board.row : board.stamp)[r][s % window] = s + 1;
    me.stage[s] = row ? kWritten : kSubmitted;
    sink(n, Move{r, row ? "writes row" : "stamps row", s});
  }

  template <class Sink>
  void Await(State n, int r, int s, Sink& sink) const {
    Rank& me = n.ranks[r];
    Board& board = n.boards[me.board - 1];
    Stage& stage = me.stage[s];
    const uint8_t tag = s + 1;
    const Word word = board.words[s % (2 * window)];
    auto to = [&](Stage after, const char* deed) {
      stage = after;
      sink(n, Move{r, deed, s});
    };
    if (stage > kSubmitted) {
      if (board.record[s % window][stage == kHalfRecord] != tag) n.fault = kTornRecord;
      to(stage == kSawPlan ? kHalfRecord : kPlanned, "copies the next half of record");
    } else if (word.tag > tag) {
      n.fault = kLapped;
      to(kLost, "finds its word lapped, step");
    } else if (word.tag == tag && word.value == kFallback) {
      to(kFellBack, "reads FALLBACK for step");
    } else if (word.tag == tag) {
      if (n.memory_at[s] != me.board + 1) n.fault = kMemoryElsewhere;
      if (board.gate == kFailed) {
        me.told = 1;
        to(kLost, "reads PLAN under a FAILED gate, step");
      } else {
        to(kSawPlan, "reads PLAN for step");
      }
    } else if (Over(board) || (clocks > 0 && board.collected[s % window] == tag)) {
      Propose(board, s, kFallback);
      to(kSubmitted, "compare-exchanges FALLBACK, step");
    }
  }

  // Rule 3. A transfer may turn out impossible as long as the rank uses that memory.
  template <class Sink>
  void CannotFollow(const State& now, int r, Sink& sink) const {
    for (int s = 0; s < now.ranks[r].next && now.failures < failures; ++s) {
      State n = now;
      Rank& me = n.ranks[r];
      if (me.stage[s] < kSawPlan || me.stage[s] > kPlanned) continue;
      if (me.memory + 1 != n.memory_at[s]) continue;
      ++n.failures;
      me.stage[s] = kLost;
      me.told |= me.board == me.memory;
      n.boards[me.memory - 1].gate = kFailed;
      sink(n, Move{r, "cannot follow, sets FAILED, step", s, true});
    }
  }

  // A rank dies, comes again as a new process, is stopped in the middle of anything, goes on.
  template <class Sink>
  void Trouble(const State& now, int r, Sink& sink) const {
    State n = now;
    Rank& me = n.ranks[r];
    if (me.life != kCrashed && now.rank_crashes < rank_crashes) {
      ++n.rank_crashes;
      n.daemon.gone |= n.daemon.joined & (1 << r);
      me = {};
      me.life = kCrashed;
      me.next = now.ranks[r].next;
      for (int s = 0; s < steps; ++s) {
        const Stage before = now.ranks[r].stage[s];
        me.stage[s] = before < kPlanned ? kIdle : before;
        if (std::all_of(n.ranks, n.ranks + ranks,
                        [&](const Rank& any) { return any.life == kCrashed || any.next <= s; })) {
          n.memory_at[s] = 0;  // only the dead called it
        }
      }
      sink(n, Move{r, "CRASHES", -1, true});
    } else if (me.life == kCrashed && now.respawns < respawns) {
      Respawn(n, r, sink);
    }
    n = now;
    if (me.life == kRuns && now.stops < stops) {
      ++n.stops;
      me.life = kStopped;
      sink(n, Move{r, "is STOPPED", -1, true});
    } else if (me.life == kStopped) {
      me.life = kRuns;
      sink(n, Move{r, "goes on", -1, true});
    }
  }

  // The framework lets the new process begin behind every step that any rank called, its own
  // predecessor included: that one's row may still become part of a PLAN.
  template <class Sink>
  void Respawn(State n, int r, Sink& sink) const {
    Rank& me = n.ranks[r];
    bool alone = true;
    if (respawn_behind) me.next = 0;
    for (int other = 0; other < ranks; ++other) {
      if (n.ranks[other].life == kCrashed) continue;
      me.next = std::max(me.next, n.ranks[other].next);
      alone = false;
    }
    if (alone) return;
    ++n.respawns;
    me.life = kRuns;
    me.memory = kNoMemory;
    for (int s = 0; s < steps; ++s) {
      if (s >= me.next) me.stage[s] = kIdle;
      if (s < me.next && me.stage[s] == kIdle) me.stage[s] = kSkipped;
    }
    sink(n, Move{r, "is started again, its first step is", me.next, true});
  }

  // Opens the gate, sees members go, fences those that are stopped; dies and starts again.
  template <class Sink>
  void Daemons(const State& now, Sink& sink) const {
    State n = now;
    Daemon& me = n.daemon;
    auto emit = [&](const char* deed, int number, bool fault = false) {
      sink(n, Move{-1, deed, number, fault});
      n = now;
    };
    if (me.down) {
      me.down = 0;
      return emit("starts again, knows of no board", -1, true);
    }
    if (now.daemon_crashes < daemon_crashes) {
      ++n.daemon_crashes;
      me = {1, uint8_t(n.made + 1), 0, 0, 0, 0, 0, 0, 0, 0};
      emit("CRASHES", -1, true);
    }
    if (!me.current) return;
    for (int r = 0; r < ranks; ++r) {
      const uint8_t bit = 1 << r;
      Board& board = n.boards[me.current - 1];
      const bool stopped = now.ranks[r].life == kStopped && (me.joined & bit);
      if (!(me.gone & bit) && !stopped) continue;
      const bool ends = stopped ? !fence_quietly : (me.ready & bit) > 0;
      if (ends) End(board);
      me.joined &= ~bit;
      me.ready &= ~bit;
      me.gone &= ~bit;
      emit(stopped ? "fences and ends the generation; stopped is rank"
           : ends  ? "ends the generation; gone is rank"
                   : "frees the place of rank",
           r);
    }
    Board& board = n.boards[me.current - 1];
    const int early = open_early && me.current > 1;
    if (board.gate == kClosed && __builtin_popcount(me.ready) >= ranks - early) {
      board.gate = kOpen;
      emit("opens the gate, s0 =", board.first);
    }
    Plan(now, sink);
  }

  // The rows of a step, then `collected`, the record, and PLAN. Looks for a newer board, and
  // whether its own is over, between two steps only.
  template <class Sink>
  void Plan(State n, Sink& sink) const {
    Daemon& me = n.daemon;
    if (me.phase == 0) {
      const Board& current = n.boards[me.current - 1];
      if (current.gate != kOpen) return;
      if (me.board != me.current) me.step = current.first;
      me.board = me.current;
    }
    if (me.step == steps) return;
    Board& board = n.boards[me.board - 1];
    const int s = me.step, slot = s % window;
    const uint8_t tag = s + 1;
    const char* deed = "writes the next half of record";
    const int phase = me.phase++;
    if (phase == 0) {
      for (int r = 0; r < ranks; ++r) {
        if (board.stamp[r][slot] != tag) return;
        me.torn |= board.row[r][slot] != tag;
      }
      deed = "copies the rows of step";
    } else if (phase == 1) {
      board.collected[slot] = tag;
      deed = "sets collected for step";
    } else if (phase < 4) {
      board.record[slot][phase - 2] = tag;
    } else {
      if (Propose(board, s, kPlan) && me.torn) n.fault = kTornRow;
      me.phase = me.torn = 0;
      ++me.step;
      deed = "compare-exchanges PLAN, step";
    }
    sink(n, Move{-1, deed, s});
  }
};

int Main(int argc, char** argv) {
  Generations m;
  CommandLine line;
  line.model = "generation";
  line.flags = {
      {"--ranks", &m.ranks, 2, kMaxRanks, "ranks of the group"},
      {"--window", &m.window, 1, kMaxWindow, "K, steps that may be open"},
      {"--steps", &m.steps, 1, kMaxSteps, "steps each rank calls"},
      {"--boards", &m.boards, 1, kMaxBoards, "generations that can come to be"},
      {"--clocks", &m.clocks, 0, 2, "0: only \"gone\"; 1: solve deadline; 2: step timeout as well"},
      {"--daemon-crashes", &m.daemon_crashes, 0, 2, "crashes of the daemon, at any move"},
      {"--rank-crashes", &m.rank_crashes, 0, 2, "crashes of ranks, at any move"},
      {"--respawns", &m.respawns, 0, 2, "crashed ranks that come again as a new process"},
      {"--stops", &m.stops, 0, 2, "ranks stopped, and fenced, at any move"},
      {"--failures", &m.failures, 0, 2, "ranks that cannot follow a PLAN"}};
  line.mutants = {
      {"switch_at_join", &m.switch_at_join, "memory is switched on joining, whatever s0 will be"},
      {"switch_before_gate", &m.switch_before_gate, "memory is chosen before the gate is asked"},
      {"forget_generation", &m.forget_generation, "a generation left before its s0 is forgotten"},
      {"leave_quietly", &m.leave_quietly, "a dead daemon's board is left, its gate not ended"},
      {"rejoin_with_open_steps", &m.rejoin_with_open_steps, "open steps are dropped on joining"},
      {"join_opens", &m.join_opens, "n is raised to the step of the join message"},
      {"route_after_raise", &m.route_after_raise, "n is raised, calls take the new gate later"},
      {"open_early", &m.open_early, "the gate opens with one rank missing"},
      {"reuse_board", &m.reuse_board, "a daemon's successor formats the old board"},
      {"decline_silently", &m.decline_silently, "a decline does not raise a later board's n"},
      {"fence_quietly", &m.fence_quietly, "a stopped rank is fenced, the gate not ended"},
      {"respawn_behind", &m.respawn_behind, "a new process begins at a step its rank submitted"},
      {"fail_for_ever", &m.fail_for_ever, "every call under a FAILED gate reports FAILED"},
      {"forget_failed", &m.forget_failed, "FAILED is dropped if no call came in time"}};
  const int status = line.Parse(argc, argv);
  return status >= 0 ? status : line.Check(m);
}

}  // namespace
}  // namespace ultraep::model

int main(int argc, char** argv) { return ultraep::model::Main(argc, argv); }

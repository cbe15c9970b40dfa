// Who may do what, when: the moves of the ranks and of the daemon. State and properties are in
// verdict_board.h; rule numbers are those of the design, section 5.
#include <algorithm>

#include "command_line.h"
#include "verdict_board.h"

namespace ultraep::model {
namespace {

struct Verdict : VerdictBoard {
  template <class Sink>
  void Successors(const State& now, Sink sink) const {
    for (int r = 0; r < ranks; ++r) {
      if (now.ranks[r].member >= kGone) continue;
      Join(now, r, sink);
      EndGeneration(now, r, sink);
      Load(now, r, sink);
      for (int s = 0; s < now.ranks[r].next; ++s) {
        Follow(now, r, s, sink);
        CannotFollow(now, r, s, sink);
      }
      if (now.rank_crashes < rank_crashes) Crash(now, r, sink);
    }
    if (!now.daemon.crashed) DaemonMoves(now, sink);
  }

 private:
  // Rule 0: the join message may be old by the time the member is ready.
  template <class Sink>
  void Join(State n, int r, Sink& sink) const {
    Rank& me = n.ranks[r];
    if (me.member == kOutside && n.board.gate == kClosed && !n.daemon.crashed && me.next < steps) {
      me.member = kMapped;
      if (join_opens) me.next_at_join = me.next;
      sink(n, Move{r, "joins, its next step is", me.next});
    } else if (me.member == kMapped) {
      const uint8_t to = join_opens ? me.next_at_join : me.next;
      Raise(n.board, to);
      me.member = n.board.gate == kClosed ? kAttached : kOutside;
      me.next_at_join = 0;
      sink(n, Move{r, "raises n to at least", to});
    } else if (me.member == kAttached && !n.daemon.crashed) {
      me.member = kReady;
      sink(n, Move{r, "says ready", -1});
    }
  }

  // Rules 0 and 5: who knows the daemon gone, or waits no longer, ends the generation first.
  template <class Sink>
  void EndGeneration(State n, int r, Sink& sink) const {
    const Rank& me = n.ranks[r];
    const bool waits = std::count(me.stage, me.stage + steps, kSubmitted) > 0;
    if (me.member < kAttached || Over(n.board)) return;
    End(n.board);
    if (n.daemon.crashed) sink(n, Move{r, "sees the daemon gone, ends the generation", -1});
    if (!n.daemon.crashed && clocks == 2 && waits) {
      sink(n, Move{r, "gives up waiting, ends the generation", -1});
    }
  }

  // Rules 0, 1, 3 and 4: the next call; its first operation is on the gate.
  template <class Sink>
  void Load(State n, int r, Sink& sink) const {
    Rank& me = n.ranks[r];
    const int s = me.next;
    if (s == steps) return;
    for (Stage stage : me.stage) {  // the call before has not returned
      if (stage >= kPassed && stage <= kWholeRow) return;
    }
    const Stage oldest = s < window ? kPlanned : me.stage[s - window];
    if (oldest < (submit_early ? kSawPlan : kPlanned)) return;
    auto call = [&](const char* deed, Stage stage) {
      me.stage[me.next++] = stage;
      sink(n, Move{r, deed, s});
    };
    const Gate gate = n.board.gate;
    if (me.member < (attach_after_ready ? kReady : kAttached)) {
      call("is outside, declines step", kDeclined);
    } else if (gate == kClosed) {
      if (!decline_silently) Raise(n.board, s + 1);
      call(decline_silently ? "declines step" : "raises n and declines step", kDeclined);
    } else if (gate == kFailed) {
      call("learns at the gate that the generation has FAILED, step", kTold);
    } else {
      const bool in_force = InForce(n.board, s);
      call(in_force ? "passes the gate with step" : "declines step",
           in_force ? kPassed : kDeclined);
    }
  }

  // Rules 1 to 5: a called step, from its row to its outcome.
  template <class Sink>
  void Follow(State n, int r, int s, Sink& sink) const {
    Board& board = n.board;
    Stage& stage = n.ranks[r].stage[s];
    const int slot = s % window;
    const uint8_t tag = s + 1;
    const Word word = board.words[s % Ring()];
    auto to = [&](Stage after, const char* deed) {
      stage = after;
      sink(n, Move{r, deed, s});
    };
    if (stage == kPassed) {
      board.row[r][slot][0] = tag;
      to(kHalfRow, "writes half of row");
    } else if (stage == kHalfRow) {
      board.row[r][slot][1] = tag;
      to(kWholeRow, "writes the rest of row");
    } else if (stage == kWholeRow) {
      board.stamp[r][slot] = tag;
      to(kSubmitted, "stamps row");
    } else if (stage == kSubmitted && word.tag == tag) {
      if (word.value == kPlan) to(kSawPlan, "reads PLAN for step");
      if (word.value == kFallback) to(kFellBack, "reads FALLBACK for step");
      if (word.value == kFailedWord) to(kLost, "reads FAILED for step");
    } else if (stage == kSubmitted && word.tag > tag) {
      n.fault = kLapped;
      to(kTold, "finds its word lapped, step");
    } else if (stage == kSubmitted) {
      const bool late = clocks > 0 && board.collected[slot] == tag;
      if (Over(board)) {
        to(kMayPropose, "sees the gate over, will propose FALLBACK for step");
      } else if (late) {
        to(kMayPropose, "is at the solve deadline, will propose FALLBACK for step");
      } else if (fallback_before_end) {
        to(kMayPropose, "gives up, ends nothing, will propose FALLBACK for step");
      }
    } else if (stage == kMayPropose && local_fallback) {
      to(kFellBack, "falls back on its own in step");
    } else if (stage == kMayPropose) {
      Propose(board, s, kFallback);
      to(kSubmitted, "compare-exchanges FALLBACK, step");
    } else if (stage == kSawPlan && board.gate == kFailed) {
      to(failed_as_fallback ? kFellBack : kLost, "reads FAILED at the gate, step");
    } else if (stage == kSawPlan) {
      to(kGateSeen, "finds the gate not FAILED, step");
    } else if (stage == kGateSeen || stage == kHalfRecord) {
      if (board.record[slot][stage == kHalfRecord] != tag) n.fault = kTornRecord;
      to(stage == kGateSeen ? kHalfRecord : kPlanned, "copies the next half of record");
    }
  }

  // Rule 3. A transfer may turn out impossible long after the record was copied.
  template <class Sink>
  void CannotFollow(State n, int r, int s, Sink& sink) const {
    Stage& stage = n.ranks[r].stage[s];
    if (n.failures == failures || stage < kSawPlan || stage > kPlanned) return;
    ++n.failures;
    stage = kLost;
    Word& word = n.board.words[s % Ring()];
    if (!failed_in_word) {
      n.board.gate = kFailed;
    } else if (word.tag == s + 1) {
      word.value = kFailedWord;
    } else {
      n.fault = kFailedForgotten;
    }
    sink(n, Move{r, "cannot follow, sets FAILED, step", s, true});
  }

  template <class Sink>
  void Crash(State n, int r, Sink& sink) const {
    Rank& me = n.ranks[r];
    ++n.rank_crashes;
    me.member = me.member == kOutside ? kGone : kCrashed;
    me.next = me.next_at_join = 0;
    for (Stage& stage : me.stage) stage = stage < kPlanned ? kIdle : stage;
    sink(n, Move{r, "CRASHES", -1, true});
  }

  // Opens the gate, sees members go, and takes the steps one after the other.
  template <class Sink>
  void DaemonMoves(const State& now, Sink& sink) const {
    State n = now;
    Board& board = n.board;
    Daemon& me = n.daemon;
    auto emit = [&](const char* deed, int number, bool fault = false) {
      sink(n, Move{-1, deed, number, fault});
      n = now;
    };
    int ready = 0, crashed = 0;
    for (const Rank& rank : now.ranks) {
      ready += rank.member == kReady;
      crashed += rank.member == kCrashed;
    }
    if (daemon_crashes > 0) {
      me = {1, 0, 0, 0};
      emit("CRASHES", -1, true);
    }
    if (crashed > 0 && !Over(board)) {
      End(board);
      emit("sees a member gone, ends the generation", -1);
    }
    if (board.gate == kClosed && ready == ranks) {
      board.gate = kOpen;
      me.step = board.first;
      emit("opens the gate, s0 =", me.step);
    }
    if (board.gate != kClosed && board.gate != kDead && me.step < steps) Plan(now, sink);
  }

  // The rows of a step one by one, then `collected`, the record, and PLAN.
  template <class Sink>
  void Plan(const State& now, Sink& sink) const {
    State n = now;
    Board& board = n.board;
    Daemon& me = n.daemon;
    const int s = me.step, slot = s % window, r = me.phase / 2, half = me.phase % 2;
    const int after_rows = me.phase++ - 2 * ranks;
    const uint8_t tag = s + 1;
    const char* deed = "writes the next half of record";
    if (after_rows < 0) {
      if (half == 0 && board.stamp[r][slot] != tag) return;
      me.torn |= board.row[r][slot][half] != tag;
      deed = half ? "copies the rest of that row, step"
                  : "finds a stamp, copies half of its row, step";
    } else if (after_rows == 0) {
      board.collected[slot] = tag;
      deed = "sets collected for step";
    } else if (after_rows == 1) {
      board.record[slot][0] = tag;
    } else if (after_rows == (plan_before_record ? 3 : 2)) {
      board.record[slot][1] = tag;
    } else {
      if (Propose(board, s, kPlan) && me.torn) n.fault = kTornRow;
      deed = "compare-exchanges PLAN, step";
    }
    if (after_rows == 3) me = {0, tag, 0, 0};
    sink(n, Move{-1, deed, s});
    if (after_rows != 1 || mismatches == 0) return;
    n = now;  // rule 4
    Propose(board, s, kFallback);
    me = {0, tag, 0, 0};
    sink(n, Move{-1, "finds headers that differ, compare-exchanges FALLBACK, step", s});
  }
};

int Main(int argc, char** argv) {
  Verdict m;
  CommandLine line;
  line.model = "verdict";
  line.flags = {
      {"--ranks", &m.ranks, 2, kMaxRanks, "ranks of the group"},
      {"--window", &m.window, 1, kMaxWindow, "K, steps that may be open"},
      {"--steps", &m.steps, 1, kMaxSteps, "steps each rank calls"},
      {"--clocks", &m.clocks, 0, 2, "0: only \"gone\"; 1: solve deadline; 2: step timeout as well"},
      {"--daemon-crashes", &m.daemon_crashes, 0, 1, "crashes of the daemon, at any move"},
      {"--rank-crashes", &m.rank_crashes, 0, kMaxRanks, "crashes of ranks, at any move"},
      {"--failures", &m.failures, 0, 1, "ranks that cannot follow a PLAN"},
      {"--mismatches", &m.mismatches, 0, 1, "1: the headers of any step's rows may differ"}};
  line.mutants = {
      {"local_fallback", &m.local_fallback, "a rank falls back without the word's consent"},
      {"submit_early", &m.submit_early, "step s is submitted before record s-K is copied"},
      {"plan_before_record", &m.plan_before_record, "PLAN is proposed before its record is whole"},
      {"join_opens", &m.join_opens, "n is raised to the step of the join message"},
      {"short_ring", &m.short_ring, "K verdict words instead of 2K"},
      {"decline_silently", &m.decline_silently, "a decline while CLOSED does not raise n"},
      {"fallback_before_end", &m.fallback_before_end, "a timeout proposes FALLBACK, ends nothing"},
      {"plain_store", &m.plain_store, "verdicts are stored, not compare-exchanged"},
      {"attach_after_ready", &m.attach_after_ready, "calls pass the gate only once ready is said"},
      {"failed_as_fallback", &m.failed_as_fallback, "PLAN under a FAILED gate counts as FALLBACK"},
      {"failed_in_word", &m.failed_in_word, "FAILED is written into the step's word"}};
  const int status = line.Parse(argc, argv);
  return status >= 0 ? status : line.Check(m);
}

}  // namespace
}  // namespace ultraep::model

int main(int argc, char** argv) { return ultraep::model::Main(argc, argv); }

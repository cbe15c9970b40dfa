// Who may zero, add, sum and take, when: the moves of callers and reduce workers. State, properties
// and plans are in gradient_board.h; rule numbers are those of the design, section 5.
#include <algorithm>

#include "command_line.h"
#include "gradient_board.h"

namespace ultraep::model {
namespace {

struct Gradients : GradientBoard {
  template <class Sink>
  void Successors(const State& now, Sink sink) const {
    if (!now.begun) return Choose(now, sink);
    for (int r = 0; r < ranks; ++r) {
      if (now.crashed[r]) continue;
      Call(now, r, sink);
      Reduce(now, r, sink);
      if (now.crashes == crashes) continue;
      State n = now;
      ++n.crashes;
      n.crashed[r] = 1;
      n.callers[r] = {};
      n.workers[r] = {};
      sink(n, Move{r, "CRASHES", -1, true});
    }
  }

 private:
  // What a wait depends on.
  struct Awaited {
    int rank;
    bool over, elsewhere;
  };

  // All plans; then who misses which call, if any.
  template <class Sink>
  void Choose(const State& now, Sink& sink) const {
    auto start = [&](State n, int rank, int call) {
      n.begun = 1;
      n.misses = rank + 1;
      n.missed = call;
      for (int r = 0; r < ranks; ++r) Skip(n, r);
      sink(n, Move{rank, rank < 0 ? "all begin" : "will miss call", rank < 0 ? -1 : call});
    };
    if (now.chosen) {
      start(now, -1, 0);
      for (int i = 0; misses && i < ranks * ops; ++i) start(now, i % ranks, i / ranks);
      return;
    }
    for (size_t i = 0; i < runs.size(); ++i) {
      State n = now;
      n.chosen = 1;
      std::copy(runs[i].begin(), runs[i].end(), n.plan);
      sink(n, Move{-1, "the operations' replicas are", int(i)});
    }
  }

  int SetOf(const State& now, int r, int k) const {
    return Op(now, r, k) % (shared_set ? 1 : sets);
  }
  Slot& SlotOf(State& n, int at, int r, int k) const { return n.slots[at][SetOf(n, r, k)]; }

  Awaited Until(uint8_t word, uint8_t number, int rank) const {
    const bool reached = Count(word) >= Count(number);
    return {rank, at_least ? reached : word == number, reached && word != number};
  }

  // What a thread may do at a wait: go on, stop at FAILED, or, still waiting, set FAILED. Where
  // calls differ the bound is what ends the wait: it counts as a way on.
  template <class Sink, class Stop>
  void Wait(const State& now, int r, const Awaited& awaited, Sink& sink, Stop stop) const {
    State n = now;
    if (now.failed) {
      if (blind_wait) return;
      stop(n);
      return sink(n, Move{r, "reads FAILED at a wait", -1});
    }
    n.failed = 1;
    if (awaited.over) return;
    if (awaited.elsewhere) {
      return sink(n, Move{r, "waits, sets the gate to FAILED: elsewhere is rank", awaited.rank});
    }
    if (now.crashed[awaited.rank]) {
      return sink(n, Move{r, "waits, sets the gate to FAILED: gone is rank", awaited.rank});
    }
    if (now.alarms == alarms && !now.misses) return;
    n.alarms += !now.misses;
    sink(n, Move{r, "is at the bound of a wait, sets the gate to FAILED", -1, !now.misses});
  }

  // Rule 6, replica's side.
  template <class Sink>
  void Call(const State& now, int r, Sink& sink) const {
    const Caller& me = now.callers[r];
    const int calls = Calls(now, r);
    if (me.work == kCallsNoMore) return;
    if (me.work == kPrepare && me.joined < me.op && (me.op == calls || me.joined + ahead < me.op)) {
      return Join(now, r, sink);
    }
    if (me.filled < Ahead(now, r)) return Fill(now, r, sink);
    if (me.op < calls) Issue(now, r, sink);
  }

  // Operations whose gradient must be there before the next one is issued.
  int Ahead(const State& now, int r) const {
    return std::min(now.callers[r].op + 1 + overlap, Calls(now, r));
  }

  template <class Sink>
  void Fill(const State& now, int r, Sink& sink) const {
    State n = now;
    Caller& me = n.callers[r];
    const int k = me.filled;
    auto to = [&](Work work, const char* deed) {
      me.work = work;
      sink(n, Move{r, deed, k});
    };
    Slot& slot = SlotOf(n, r, r, k);
    if (me.work == kPrepare) {
      const Awaited awaited = Room(now, r, k);
      Wait(now, r, awaited, sink,
           [&](State& stopping) { stopping.callers[r].work = kCallsNoMore; });
      if (ready_before_data) slot.ready = Number(now, r, k);
      if (awaited.over) to(no_zero ? kAdd : kZero, "may write the slot's gradient of operation");
    } else if (me.work == kZero || me.work == kZeroRest) {
      slot.half[me.work == kZeroRest] = 0;
      to(Work(me.work + 1), "zeroes half of the slot's gradient, operation");
    } else {
      uint8_t& half = slot.half[me.work == kAddRest];
      half = half ? kMixed : Bytes(Op(now, r, k));
      if (me.work == kAdd) return to(kAddRest, "adds half of the gradient of operation");
      ++me.filled;
      Skip(n, r);
      to(kPrepare, "adds the rest of the gradient of operation");
    }
  }

  template <class Sink>
  void Issue(State n, int r, Sink& sink) const {
    Caller& me = n.callers[r];
    const int k = me.op;
    Wait(n, r, {r, true, false}, sink,
         [&](State& stopping) { stopping.callers[r].work = kCallsNoMore; });
    const bool replica = PlanOf(n, r, k)[r] >= 0;
    if (replica || set_word) SlotOf(n, r, r, k).ready = Number(n, r, k);
    ++me.op;
    Skip(n, r);
    sink(n,
         Move{r,
              replica ? "says ready and issues operation" : "issues, without a replica, operation",
              k});
  }

  // Until the gradient that the slot's last use left there is taken.
  Awaited Room(State n, int r, int k) const {
    for (int before = k - 1; before >= 0 && !zero_before_taken; --before) {
      if (SetOf(n, r, before) != SetOf(n, r, k)) continue;
      const int home = PlanOf(n, r, before)[r];
      if (home >= 0) return Until(SlotOf(n, r, r, k).taken, Number(n, r, before), home);
      if (forget_use) break;
    }
    return {r, true, false};
  }

  // The framework adds to the main gradients, or uses them up, as soon as it has joined.
  template <class Sink>
  void Join(State n, int r, Sink& sink) const {
    const int k = n.callers[r].joined;
    const Awaited awaited = {r, add_before_join || n.workers[r].op > k, false};
    Wait(n, r, awaited, sink, [&](State& stopping) { stopping.callers[r].work = kCallsNoMore; });
    if (!awaited.over) return;
    if (n.workers[r].op <= k && !AllSummed(n, r, k)) n.fault = kMainChanged;
    ++n.callers[r].joined;
    sink(n, Move{r, "has joined and changes its main gradients, operation", k});
  }

  bool AllSummed(const State& now, int r, int k) const {
    bool all = true;
    for (int at = 0; at < ranks; ++at) {
      all = all && (PlanOf(now, r, k)[at] != r || Summed(now, Op(now, r, k), at));
    }
    return all;
  }

  // Moves the caller past operations without a replica on it, and the worker on to its next
  // replica; that takes no shared operation.
  void Skip(State& n, int r) const {
    Caller& caller = n.callers[r];
    while (caller.filled < Ahead(n, r) && PlanOf(n, r, caller.filled)[r] < 0) ++caller.filled;
    Worker& me = n.workers[r];
    while (me.op < caller.op) {
      const Plan& plan = PlanOf(n, r, me.op);
      for (; me.at < ranks; ++me.at) {
        const bool had = ready_first && me.work == kAwait && Summed(n, Op(n, r, me.op), me.at);
        if (plan[me.at] == r && !had) return;
      }
      me.at = 0;
      me.work = me.work == kTake ? kAwait : kTake;
      if (me.work == kTake) continue;
      if (!AllSummed(n, r, me.op)) n.fault = std::max(n.fault, kLost);
      ++me.op;
    }
  }

  // Rule 6, home's side.
  template <class Sink>
  void Reduce(const State& now, int r, Sink& sink) const {
    State n = now;
    Worker& me = n.workers[r];
    const int k = me.op, at = me.at;
    if (me.work == kSumsNoMore) return;
    if (k == now.callers[r].op) {
      if (now.callers[r].work != kCallsNoMore) return;
      me.work = kSumsNoMore;
      return sink(n, Move{r, "sums no more, operation", k});
    }
    if (me.work == kAwait) return AwaitGradients(now, r, sink);
    const char* deed = "says taken to rank";
    if (me.work == kTake) {
      SlotOf(n, at, r, k).taken = Number(now, r, k);
      ++me.at;
    } else {
      deed = me.work == kRead ? "sums half of the gradient of rank"
                              : "sums the rest of the gradient of rank";
      Read(n, r);
    }
    Skip(n, r);
    sink(n, Move{r, deed, at});
  }

  template <class Sink>
  void AwaitGradients(const State& now, int r, Sink& sink) const {
    const int k = now.workers[r].op, first = now.workers[r].at;
    for (int at = first; at < (ready_first ? ranks : first + 1); ++at) {
      if (PlanOf(now, r, k)[at] != r || Summed(now, Op(now, r, k), at)) continue;
      State n = now;
      Worker& me = n.workers[r];
      Slot& slot = SlotOf(n, at, r, k);
      const Awaited awaited = Until(slot.ready, Number(now, r, k), at);
      Wait(now, r, awaited, sink, [&](State& stopping) {
        stopping.workers[r].work = sum_after_failed ? kRead : kSumsNoMore;
      });
      if (awaited.over) {
        if (taken_before_read) slot.taken = Number(now, r, k);
        me.at = at;
        me.work = kRead;
        sink(n, Move{r, "finds the gradient ready of rank", at});
      } else if (skip_unready) {
        ++me.at;
        Skip(n, r);
        sink(n, Move{r, "passes over the gradient of rank", at});
      }
    }
  }

  // Half of a gradient is added to the main gradients.
  void Read(State& n, int r) const {
    Worker& me = n.workers[r];
    const int op = Op(n, r, me.op);
    const uint8_t bytes = SlotOf(n, me.at, r, me.op).half[me.work == kReadRest];
    if (bytes != Bytes(op)) n.fault = bytes ? kWrong : kPartial;
    if (me.work == kRead) {
      me.work = kReadRest;
      return;
    }
    for (int later = op; later < ops; ++later) {
      for (int at = 0; at < ranks; ++at) {
        if (plans[n.plan[later]][at] != r || !Summed(n, later, at)) continue;
        if (later > op || at > me.at) n.fault = std::max(n.fault, kOutOfOrder);
        if (later == op && at == me.at) n.fault = std::max(n.fault, kLost);
      }
    }
    n.summed[op] |= 1 << me.at;
    me.at = ready_first ? 0 : me.at + 1;
    me.work = kAwait;
  }
};

int Main(int argc, char** argv) {
  Gradients m;
  CommandLine line;
  line.model = "gradient";
  line.flags = {{"--ranks", &m.ranks, 2, kMaxRanks, "ranks of the group"},
                {"--sets", &m.sets, 1, kMaxSets, "slot sets, taken in turn"},
                {"--ops", &m.ops, 1, kMaxOps, "reductions in a run"},
                {"--ahead", &m.ahead, 0, kMaxOps, "reductions not joined when the next begins"},
                {"--crashes", &m.crashes, 0, kMaxRanks, "crashes of ranks, at any move"},
                {"--alarms", &m.alarms, 0, 1, "waits that reach their bound though all live"},
                {"--dense", &m.dense, 0, 1, "1: only plans that fill every slot"},
                {"--same", &m.same, 0, 1, "1: all operations have the same plan"},
                {"--overlap", &m.overlap, 0, 1, "1: steps overlap; needs two sets"},
                {"--misses", &m.misses, 0, 1, "1: one rank may miss a call"}};
  line.mutants = {
      {"no_zero", &m.no_zero, "the slot keeps the gradient of its last use"},
      {"zero_before_taken", &m.zero_before_taken, "the slot is zeroed without a wait"},
      {"forget_use", &m.forget_use, "only the set's last operation counts as a use of the slot"},
      {"ready_before_data", &m.ready_before_data, "ready is set before the gradient is there"},
      {"taken_before_read", &m.taken_before_read, "taken is set before the gradient is read"},
      {"sum_after_failed", &m.sum_after_failed, "FAILED ends the wait, it is summed anyway"},
      {"at_least", &m.at_least, "a later count is as good as the number itself"},
      {"plain_count", &m.plain_count, "numbers carry no digest of the calls before"},
      {"skip_unready", &m.skip_unready, "a gradient that is not ready is passed over"},
      {"ready_first", &m.ready_first, "who is ready first is summed first"},
      {"set_word", &m.set_word, "ready is raised by operations without a replica as well"},
      {"add_before_join", &m.add_before_join, "main gradients change before the join"},
      {"shared_set", &m.shared_set, "steps that overlap share one slot set"},
      {"blind_wait", &m.blind_wait, "waits do not watch the gate"}};
  const int status = line.Parse(argc, argv);
  if (status >= 0) return status;
  m.MakeRuns();
  return line.Check(m);
}

}  // namespace
}  // namespace ultraep::model

int main(int argc, char** argv) { return ultraep::model::Main(argc, argv); }

// Who may store, read and release, when: the moves of senders and workers. State, properties and
// plans are in slot_board.h; rule numbers are those of the design, section 5.
#include <algorithm>
#include <utility>

#include "command_line.h"
#include "slot_board.h"

namespace ultraep::model {
namespace {

struct Slots : SlotBoard {
  template <class Sink>
  void Successors(const State& now, Sink sink) const {
    if (now.chosen < ops) return Choose(now, sink);
    for (int r = 0; r < ranks; ++r) {
      if (now.crashed[r]) continue;
      Send(now, r, sink);
      Use(now, r, sink);
      if (now.crashes == crashes) continue;
      State n = now;
      ++n.crashes;
      n.crashed[r] = 1;
      n.senders[r] = {};
      n.workers[r] = {};
      sink(n, Move{r, "CRASHES", -1, true});
    }
  }

 private:
  template <class Sink>
  void Choose(State n, Sink& sink) const {
    const int op = n.chosen++;
    for (size_t i = 0; i < plans.size(); ++i) {
      if (op == 0 && !InOrder(plans[i])) continue;
      if (op > 0 && same && i != n.plan[0]) continue;
      n.plan[op] = i;
      State ready = n;
      for (int r = 0; n.chosen == ops && r < ranks; ++r) Skip(ready, r);
      sink(ready, Move{-1, "the next operation sends", int(i)});
    }
  }

  // Moves the sender on to its next own transfer; that takes no shared operation.
  void Skip(State& n, int r) const {
    for (Sender& me = n.senders[r]; me.op < ops; ++me.op, me.transfer = 0) {
      const Plan& plan = plans[n.plan[me.op]];
      while (me.transfer < plan.size() && plan[me.transfer].from != r) ++me.transfer;
      if (me.transfer < plan.size()) return;
    }
  }

  // What a thread may do at a wait: go on, stop at FAILED, or, still waiting, set FAILED.
  template <class Sink, class Stop>
  void Wait(const State& now, int r, bool over, Sink& sink, Stop stop) const {
    State n = now;
    if (now.failed) {
      if (blind_wait) return;
      stop(n);
      return sink(n, Move{r, "reads FAILED at a wait, operation", n.workers[r].op});
    }
    const bool gone = std::count(now.crashed, now.crashed + ranks, 1) > 0;
    n.failed = 1;
    if (over) return;
    if (gone) sink(n, Move{r, "waits, sees a member gone, sets the gate to FAILED", -1});
    if (gone || now.alarms == alarms) return;
    ++n.alarms;
    sink(n, Move{r, "is at the bound of a wait, sets the gate to FAILED", -1, true});
  }

  // Rules 6 and 7, sending side.
  template <class Sink>
  void Send(const State& now, int r, Sink& sink) const {
    State n = now;
    Sender& me = n.senders[r];
    if (me.op == ops || me.stopped) return;
    const Transfer& t = plans[n.plan[me.op]][me.transfer];
    const int set = Set(me.op), chunk = me.chunk;
    const uint8_t number = Number(me.op);
    const Slot& own = n.slots[r][set];
    Slot& dest = n.slots[t.to][set];
    if (me.halves == 0) {
      const bool room = no_released || dest.released + 1 >= number;
      const bool go = room && (t.parent < 0 || blind_relay || own.flag[chunk] == number);
      Wait(now, r, go, sink, [&](State& stopping) { stopping.senders[r] = {me.op, 0, 0, 0, 1}; });
      if (!go) return;
    }
    if (me.halves < 2) {
      if (t.parent < 0 && n.main_changed[r]) n.fault = kMainChanged;
      if (t.parent >= 0 && own.half[chunk][me.halves] != number) n.fault = kPartialRelay;
      dest.half[chunk][me.halves++] = number;
      if (flag_before_data) dest.flag[chunk] = number;
      return sink(n, Move{r,
                          me.halves == 1 ? "stores half of a chunk into rank"
                                         : "stores the rest of the chunk into rank",
                          t.to});
    }
    dest.flag[chunk] = number;
    me.halves = 0;
    if (++me.chunk == kChunks) {
      me.chunk = 0;
      ++me.transfer;
      Skip(n, r);
    }
    sink(n, Move{r, "sets the chunk's flag at rank", t.to});
  }

  // Does operation `op` of this rank have a replica, and does `good` hold for its chunks?
  template <class Good>
  bool Chunks(const State& now, int r, int op, Good good) const {
    for (const Transfer& t : plans[now.plan[op]]) {
      if (t.to != r) continue;
      for (int c = 0; c < kChunks; ++c) {
        if (!good(now.slots[r][Set(op)], c)) return false;
      }
    }
    return true;
  }
  bool Arrived(const State& now, int r, int op) const {
    return Chunks(now, r, op, [&](auto& slot, int c) { return slot.flag[c] == Number(op); });
  }
  bool Whole(const State& now, int r, int op) const {
    return Chunks(now, r, op, [&](auto& slot, int c) {
      return slot.half[c][0] == Number(op) && slot.half[c][1] == Number(op);
    });
  }

  bool Sent(const State& now, int r, int op) const {
    const Sender& sender = now.senders[r];
    if (sender.op != op || !release_before_relays) return sender.op > op;
    const Plan& plan = plans[now.plan[op]];
    return std::none_of(plan.begin() + sender.transfer, plan.end(),
                        [&](auto& t) { return t.from == r && t.parent < 0; });
  }

  // Rule 6, using side.
  template <class Sink>
  void Use(const State& now, int r, Sink& sink) const {
    State n = now;
    Worker& me = n.workers[r];
    const int op = me.op;
    auto to = [&](Work after, const char* deed) {
      me.work = after;
      sink(n, Move{r, deed, op});
    };
    if (me.work == kStopped) return;
    if (op == ops) {
      if (!std::exchange(n.main_changed[r], 1)) sink(n, Move{r, "changes its main weights", -1});
      return;
    }
    if (me.work == kUse || me.work == kUsed) {
      if (!Whole(now, r, op)) n.fault = kPartialUse;
      return to(Work(me.work + 1), me.work == kUse ? "begins to use the slot of operation"
                                                   : "has used the slot of operation");
    }
    uint8_t& released = n.slots[r][Set(op)].released;
    const bool ahead = (overlap || shared_set) && op % 2 == 0 &&
                       op + 1 < ops;  // waits for two steps, then computes
    const bool go = me.work == kWaitSends
                        ? release_before_sends || Sent(now, r, op)
                        : Arrived(now, r, op) && (!ahead || Arrived(now, r, op + 1));
    Wait(now, r, go, sink, [&](State& stopping) {
      const bool uses = use_after_failed && me.work == kWaitFlags;
      stopping.workers[r].work = uses ? kUse : kStopped;
    });
    if (me.work == kWaitFlags && release_before_use && released < Number(op)) {
      released = Number(op);
      return to(kWaitFlags, "publishes released before it uses operation");
    }
    if (!go) return;
    if (me.work == kWaitFlags) return to(kUse, "finds all flags of operation");
    released = Number(op);
    ++me.op;
    to(kWaitFlags, "publishes released for operation");
  }
};

int Main(int argc, char** argv) {
  Slots m;
  CommandLine line;
  line.model = "slot";
  line.flags = {{"--ranks", &m.ranks, 2, kMaxRanks, "ranks of the group"},
                {"--sets", &m.sets, 1, kMaxSets, "slot sets, taken in turn"},
                {"--ops", &m.ops, 1, kMaxOps, "operations in a run"},
                {"--crashes", &m.crashes, 0, kMaxRanks, "crashes of ranks, at any move"},
                {"--alarms", &m.alarms, 0, 1, "waits that reach their bound though all live"},
                {"--dense", &m.dense, 0, 1, "1: only plans that fill every slot"},
                {"--same", &m.same, 0, 1, "1: all operations have the same plan"},
                {"--overlap", &m.overlap, 0, 1, "1: steps overlap in pairs; needs two sets"}};
  line.mutants = {
      {"no_released", &m.no_released, "a sender ignores the released word"},
      {"flag_before_data", &m.flag_before_data, "the chunk's flag is set before its data"},
      {"release_before_sends", &m.release_before_sends, "released is published before own sends"},
      {"release_before_use", &m.release_before_use,
       "released is published before the slot is used"},
      {"blind_wait", &m.blind_wait, "waits do not watch the gate"},
      {"use_after_failed", &m.use_after_failed, "FAILED ends the wait, the slot is used anyway"},
      {"blind_relay", &m.blind_relay, "a relay does not wait for its parent's flag"},
      {"release_before_relays", &m.release_before_relays,
       "released is published before own relays"},
      {"shared_set", &m.shared_set, "steps that overlap share one slot set"}};
  const int status = line.Parse(argc, argv);
  if (status >= 0) return status;
  m.MakePlans();
  return line.Check(m);
}

}  // namespace
}  // namespace ultraep::model

int main(int argc, char** argv) { return ultraep::model::Main(argc, argv); }

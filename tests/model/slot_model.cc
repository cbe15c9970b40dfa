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
    if (!now.ready) return Choose(now, sink);
    for (int r = 0; r < ranks; ++r) {
      if (now.crashed[r]) continue;
      Issue(now, r, sink);
      Send(now, r, sink);
      Use(now, r, sink);
      Wedge(now, r, sink);
      if (now.crashes == crashes) continue;
      State n = now;
      ++n.crashes;
      n.crashed[r] = 1;
      n.senders[r] = {};
      n.workers[r] = {};
      sink(n, Move{r, "CRASHES", -1, true});
    }
    if (now.stray.lands) Land(now, sink);
    Environment(now, sink);
  }

 private:
  // The plans, one after the other; then who misses which call, if any.
  template <class Sink>
  void Choose(const State& now, Sink& sink) const {
    for (size_t i = 0; now.chosen < ops && i < plans.size(); ++i) {
      if (now.chosen == 0 && !InOrder(plans[i])) continue;
      if (now.chosen > 0 && same && i != now.plan[0]) continue;
      State n = now;
      n.plan[n.chosen++] = i;
      sink(n, Move{-1, "the next operation sends", int(i)});
    }
    if (now.chosen < ops) return;
    auto start = [&](int rank, int call) {
      State n = now;
      n.ready = 1;
      n.misses = rank + 1;
      n.missed = call;
      for (int r = 0; r < ranks; ++r) Skip(n, r);
      sink(n, Move{rank, rank < 0 ? "all begin" : "will miss call", rank < 0 ? -1 : call});
    };
    start(-1, 0);
    for (int i = 0; misses && i < ranks * ops; ++i) start(i % ranks, i / ranks);
  }

  // Moves the sender on to its next own transfer; that takes no shared operation.
  void Skip(State& n, int r) const {
    for (Sender& me = n.senders[r]; me.op < Calls(n, r); ++me.op, me.transfer = 0) {
      const Plan& plan = PlanOf(n, r, me.op);
      while (me.transfer < plan.size() && plan[me.transfer].from != r) ++me.transfer;
      if (me.transfer < plan.size()) return;
    }
  }

  // What a thread may do at a wait: go on, stop at FAILED, or, still waiting, set FAILED. Where
  // calls differ the bound is what ends the wait: it counts as a way on.
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
    if (gone || (now.alarms == alarms && !now.misses)) return;
    n.alarms += !now.misses;
    sink(n, Move{r, "is at the bound of a wait, sets the gate to FAILED", -1, !now.misses});
  }

  // Rule 6: a rank's previous operation on the set is released, then it accepts the next.
  template <class Sink>
  void Issue(State n, int r, Sink& sink) const {
    Worker& me = n.workers[r];
    const int k = me.issued, before = k - Sets();
    const bool using_it = issue_before_use && before == me.op && me.work >= kUse;
    if (k == Calls(n, r) || me.work == kStopped || (before >= me.op && !using_it)) return;
    SlotOf(n, n.memory, r, k).accepts = Number(n, r, k);
    ++me.issued;
    sink(n, Move{r, "issues and accepts operation", k});
  }

  // Rules 6 and 7, sending side.
  template <class Sink>
  void Send(const State& now, int r, Sink& sink) const {
    State n = now;
    Sender& me = n.senders[r];
    if (me.op == Calls(now, r) || me.stopped) return;
    auto stop = [&](State& stopping) { stopping.senders[r] = {me.op, 0, 0, 0, 1}; };
    if (me.op >= now.workers[r].issued) {
      if (now.failed && now.workers[r].work == kStopped) {
        stop(n);
        sink(n, Move{r, "sends no more, operation", n.senders[r].op});
      }
      return;
    }
    const Transfer& t = PlanOf(now, r, me.op)[me.transfer];
    if (me.halves == 0) {
      const uint8_t number = Number(now, r, me.op);
      const Slot& own = SlotOf(n, n.memory, r, me.op);
      const bool room = no_accepts || me.chunk > 0 ||  // asked before the first store only
                        SlotOf(n, n.memory, t.to, me.op).accepts == number;
      const bool go = room && (t.parent < 0 || blind_relay || own.flag[me.chunk] == number);
      Wait(now, r, go, sink, stop);
      if (!go) return;
      if (t.parent < 0 && n.main_changed[r]) n.fault = kMainChanged;
    }
    const char* deed = Store(n, n.memory, r, me);
    if (me.chunk == kChunks) {
      me.chunk = 0;
      ++me.transfer;
      Skip(n, r);
    }
    sink(n, Move{r, deed, t.to});
  }

  // The next store of a transfer: a half chunk, or the flag behind both.
  const char* Store(State& n, int memory, int r, Sender& me) const {
    const Transfer& t = PlanOf(n, r, me.op)[me.transfer];
    const uint8_t number = Number(n, r, me.op), bytes = Bytes(memory, Op(n, r, me.op));
    Slot& dest = SlotOf(n, memory, t.to, me.op);
    if (me.halves == 2) {
      dest.flag[me.chunk++] = number;
      me.halves = 0;
      return "sets the chunk's flag at rank";
    }
    const bool strays = &me == &n.stray.sender;
    if (t.parent < 0 && n.main_changed[r] && !strays) n.fault = kMainChanged;
    if (t.parent >= 0 && !strays &&
        SlotOf(n, memory, r, me.op).half[me.chunk][me.halves] != bytes) {
      n.fault = kPartialRelay;
    }
    dest.half[me.chunk][me.halves++] = bytes;
    if (flag_before_data) dest.flag[me.chunk] = number;
    return me.halves == 1 ? "stores half of a chunk into rank"
                          : "stores the rest of the chunk into rank";
  }

  // Rule 7: a store that is on its way cannot be called back. The rank itself goes on without it.
  template <class Sink>
  void Wedge(State n, int r, Sink& sink) const {
    const Sender& sender = n.senders[r];
    if (n.wedges == wedges || n.failed || n.memory > 0 || sender.halves == 0) return;
    ++n.wedges;
    n.stray = {1, n.memory, uint8_t(r), sender};
    n.senders[r] = {sender.op, 0, 0, 0, 1};
    sink(n, Move{r, "is WEDGED in the middle of a chunk", -1, true});
  }
  template <class Sink>
  void Land(State n, Sink& sink) const {
    Stray& stray = n.stray;
    const int r = stray.rank, to = PlanOf(n, r, stray.sender.op)[stray.sender.transfer].to;
    const char* deed = Store(n, stray.memory, r, stray.sender);
    if (stray.sender.chunk == kChunks) stray = {};
    sink(n, Move{r, deed, to, true});
  }

  // The daemon fences who is wedged; once all threads have stopped the group goes on, on new
  // memory: the words of a generation begin anew.
  template <class Sink>
  void Environment(const State& now, Sink& sink) const {
    State n = now;
    bool stopped = now.failed, crashed = false;
    for (int r = 0; r < ranks; ++r) {
      stopped &= now.workers[r].work == kStopped || now.workers[r].op == Calls(now, r);
      stopped &= now.senders[r].stopped || now.senders[r].op == Calls(now, r);
      crashed |= now.crashed[r];
    }
    if (now.wedges > 0 && !now.failed && now.memory == 0) {
      n.failed = 1;
      sink(n, Move{-1, "the daemon fences the wedged rank, the gate is FAILED", -1});
    } else if (stopped && !crashed && now.memory + 1 < memories) {
      ++n.memory;
      n.failed = n.misses = n.missed = 0;
      for (int r = 0; r < ranks; ++r) {
        n.senders[r] = {};
        n.workers[r] = {};
        n.main_changed[r] = 0;
        for (Slot& slot : n.slots[0][r]) {
          for (uint8_t& flag : slot.flag) flag = 0;
          slot.accepts = 0;
        }
        Skip(n, r);
      }
      sink(n, Move{-1, "the group goes on in a new generation", -1});
    }
  }

  // Does operation k of this rank have a replica, and does `good` hold for its chunks?
  template <class Good>
  bool Chunks(const State& now, int r, int k, Good good) const {
    State n = now;
    for (const Transfer& t : PlanOf(now, r, k)) {
      if (t.to != r) continue;
      for (int c = 0; c < kChunks; ++c) {
        if (!good(SlotOf(n, n.memory, r, k), c)) return false;
      }
    }
    return true;
  }
  bool Arrived(const State& now, int r, int k) const {
    const uint8_t number = Number(now, r, k);
    return Chunks(now, r, k, [&](const Slot& slot, int c) { return slot.flag[c] == number; });
  }
  Fault Reads(const State& now, int r, int k) const {
    const uint8_t bytes = Bytes(now.memory, Op(now, r, k));
    const auto holds = [&](const Slot& slot, int c, uint8_t what) {
      return slot.half[c][0] == what && slot.half[c][1] == what;
    };
    if (Chunks(now, r, k, [&](auto& slot, int c) { return holds(slot, c, bytes); })) return kFine;
    const bool other = Chunks(now, r, k, [&](auto& slot, int c) {
      return slot.half[0][0] != 0 && holds(slot, c, slot.half[0][0]);
    });
    return other ? kWrongUse : kPartialUse;
  }

  bool Sent(const State& now, int r, int k) const {
    const Sender& sender = now.senders[r];
    if (sender.op != k || !release_before_relays) return sender.op > k;
    const Plan& plan = PlanOf(now, r, k);
    return std::none_of(plan.begin() + sender.transfer, plan.end(),
                        [&](auto& t) { return t.from == r && t.parent < 0; });
  }

  // Rule 6, using side.
  template <class Sink>
  void Use(const State& now, int r, Sink& sink) const {
    State n = now;
    Worker& me = n.workers[r];
    const int k = me.op;
    auto to = [&](Work after, const char* deed) {
      me.work = after;
      sink(n, Move{r, deed, k});
    };
    if (me.work == kStopped) return;
    if (k == Calls(now, r)) {
      if (!std::exchange(n.main_changed[r], 1)) sink(n, Move{r, "changes its main weights", -1});
      return;
    }
    if (me.work == kUse || me.work == kUsed) {
      n.fault = std::max(n.fault, Reads(now, r, k));
      return to(Work(me.work + 1), me.work == kUse ? "begins to use the slot of operation"
                                                   : "has used the slot of operation");
    }
    const bool ahead = (overlap || shared_set) && k % 2 == 0 &&
                       k + 1 < Calls(now, r);  // waits for two steps, then computes
    const bool go = me.work == kWaitSends
                        ? release_before_sends || Sent(now, r, k)
                        : me.issued > k + ahead && Arrived(now, r, k) &&
                              (!ahead || Arrived(now, r, k + 1));
    Wait(now, r, go, sink, [&](State& stopping) {
      const bool uses = use_after_failed && me.work == kWaitFlags;
      stopping.workers[r].work = uses ? kUse : kStopped;
    });
    if (me.work == kWaitFlags && release_before_inbound && me.issued > k && !now.failed) {
      me.work = kWaitSends;
      sink(n, Move{r, "needs no slot, waits for no flag, operation", k});
      me.work = kWaitFlags;
    }
    if (!go) return;
    if (me.work == kWaitFlags) return to(kUse, "finds all flags of operation");
    ++me.op;
    to(kWaitFlags, "has released operation");
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
                {"--overlap", &m.overlap, 0, 1, "1: steps overlap in pairs; needs two sets"},
                {"--misses", &m.misses, 0, 1, "1: one rank may miss a call"},
                {"--wedges", &m.wedges, 0, 1, "senders wedged and fenced; needs --memories 2"},
                {"--memories", &m.memories, 1, kMaxMemories, "generations, one after FAILED"}};
  line.mutants = {
      {"no_accepts", &m.no_accepts, "a sender ignores the accepts word"},
      {"flag_before_data", &m.flag_before_data, "the chunk's flag is set before its data"},
      {"issue_before_use", &m.issue_before_use, "the next is accepted before the slot is used"},
      {"release_before_inbound", &m.release_before_inbound, "a slot not needed is not waited for"},
      {"release_before_sends", &m.release_before_sends, "released before own sends are done"},
      {"release_before_relays", &m.release_before_relays, "released before own relays are done"},
      {"blind_wait", &m.blind_wait, "waits do not watch the gate"},
      {"use_after_failed", &m.use_after_failed, "FAILED ends the wait, the slot is used anyway"},
      {"blind_relay", &m.blind_relay, "a relay does not wait for its parent's flag"},
      {"shared_set", &m.shared_set, "steps that overlap share one slot set"},
      {"plain_count", &m.plain_count, "numbers carry no digest of the calls before"},
      {"reuse_failed_memory", &m.reuse_failed_memory, "the next generation keeps the memory"}};
  const int status = line.Parse(argc, argv);
  if (status >= 0) return status;
  m.MakePlans();
  return line.Check(m);
}

}  // namespace
}  // namespace ultraep::model

int main(int argc, char** argv) { return ultraep::model::Main(argc, argv); }

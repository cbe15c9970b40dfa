// How data is published when stores and loads may be reordered, as on Arm: data first, then one
// word that says so; re-use of the data's place; the sleeping flag; non-temporal stores.
//
// Weak memory, operationally. Memory is one array, a store is seen by all at once (Arm is
// multi-copy atomic). A thread is a straight list of operations with its loops unrolled; each is
// performed once, at any time and in any order, except that an operation waits for an earlier one
// of its thread if
//   - both touch the same place,
//   - the earlier one is an acquire or seq_cst load,
//   - it is itself a release or seq_cst store, and the earlier one no non-temporal store,
//   - both are seq_cst,
//   - the earlier one is a load that is branched on, and it is itself a store,
//   - one is a store fence and the other a store, a non-temporal one included.
// So a load may be satisfied before an earlier wait is over (speculation) or after a later store,
// and plain stores drain in any order. A compare-exchange counts as its store, which is weaker than
// the truth: of a load and a store that are exclusive nothing behind waits for the store.
//
// A wait is performed when its value is there; a copy may be performed at any time, and what it
// reads must be the very step's. Writers may crash anywhere; every wait then has a way out, for it
// watches the gate, but for the mutant's spin on an odd stamp.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "command_line.h"
#include "search.h"

namespace ultraep::model {
namespace {

constexpr int kMaxThreads = 3, kMaxPlaces = 23, kMaxOps = 40;

enum Kind : uint8_t { kStore, kCopy, kAwait, kSpin, kLook, kStoreIf, kAwaitIf, kFence };
enum Order : uint8_t { kRelaxed, kAcquire, kRelease, kSeqCst, kNonTemporal };
enum Fault : uint8_t { kFine, kStaleRow, kStaleRecord, kStaleChunk };
constexpr const char* kFaultText[] = {nullptr, "a torn or stale row is used",
                                      "a torn or stale record is used",
                                      "a torn or stale chunk is used"};

struct Op {
  Kind kind;
  Order order;
  uint8_t place, value;  // what is stored, waited for, or must be read
  const char* deed;
  Fault fault = kFine;  // of a copy
  uint8_t looked = 0;   // StoreIf: only if this was seen; AwaitIf: unless this was seen
};

struct Publish {
  struct State {
    uint64_t done[kMaxThreads];  // one bit per operation
    uint8_t memory[kMaxPlaces];
    uint8_t looked[kMaxThreads], crashed[kMaxThreads], left[kMaxThreads];
    uint8_t crashes, unused[6];
    Fault fault;
  };

  int protocol = 0, ranks = 2, window = 1, steps = 2, crashes = 1, non_temporal = 1;
  bool relaxed_stamp_store = false, relaxed_stamp_load = false, relaxed_word_load = false;
  bool relaxed_propose = false, sleep_release_acquire = false, no_store_fence = false;
  bool relaxed_flag_store = false, relaxed_flag_load = false, relaxed_accepts = false;
  bool reuse_unresolved = false, in_place = false;
  std::vector<Op> threads[kMaxThreads];
  std::vector<std::string> names;

  State Initial() const { return {}; }
  std::string Describe(const Move& m) const {
    return names[m.rank] + " " + m.deed + (m.number < 0 ? "" : " " + std::to_string(m.number - 1));
  }
  const char* Violation(const State& now) const { return kFaultText[now.fault]; }
  const char* AtRest(const State& now) const {
    for (size_t t = 0; t < names.size(); ++t) {
      if (!now.crashed[t] && !now.left[t] && !Finished(now, t)) {
        return protocol == 1 ? "a wake is lost: a sleeper sleeps for ever" : "a thread hangs";
      }
    }
    return nullptr;
  }
  bool Goal(const State& now) const {
    for (size_t t = 0; t < names.size(); ++t) {
      if (!Finished(now, t)) return false;
    }
    return true;
  }
  bool Finished(const State& now, int t) const {
    return now.done[t] == (uint64_t{1} << threads[t].size()) - 1;
  }

  template <class Sink>
  void Successors(const State& now, Sink sink) const {
    const bool gone = std::count(now.crashed, now.crashed + kMaxThreads, 1) > 0;
    for (size_t t = 0; t < names.size(); ++t) {
      if (now.crashed[t] || now.left[t]) continue;
      for (size_t i = 0; i < threads[t].size(); ++i) {
        if (now.done[t] >> i & 1 || Waits(now, t, i)) continue;
        Perform(now, t, i, gone, sink);
      }
      if (now.crashes == crashes || Finished(now, t)) continue;
      State n = now;
      ++n.crashes;
      n.crashed[t] = 1;
      n.done[t] = 0;
      sink(n, Move{int(t), "CRASHES", -1, true});
    }
  }

  static bool Stores(const Op& op) { return op.kind == kStore || op.kind == kStoreIf; }
  static bool Branches(const Op& op) { return op.kind != kCopy && !Stores(op); }
  static bool Precedes(const Op& a, const Op& b) {
    if (a.kind == kFence || b.kind == kFence) {
      return (a.kind == kFence || Stores(a)) && (b.kind == kFence || Stores(b));
    }
    if (a.place == b.place) return true;
    if (!Stores(a) && (a.order == kAcquire || a.order == kSeqCst)) return true;
    if (a.order == kSeqCst && b.order == kSeqCst) return true;
    if (!Stores(b)) return b.kind == kAwaitIf && a.kind == kLook;
    return Branches(a) ||
           ((b.order == kRelease || b.order == kSeqCst) && a.order != kNonTemporal);
  }
  bool Waits(const State& now, int t, size_t i) const {
    for (size_t before = 0; before < i; ++before) {
      if (!(now.done[t] >> before & 1) && Precedes(threads[t][before], threads[t][i])) return true;
    }
    return false;
  }

  template <class Sink>
  void Perform(const State& now, int t, size_t i, bool gone, Sink& sink) const {
    const Op& op = threads[t][i];
    State n = now;
    uint8_t& place = n.memory[op.place];
    const bool seen = now.looked[t] == op.looked;
    n.done[t] |= uint64_t{1} << i;
    if (op.kind == kStore || (op.kind == kStoreIf && seen)) place = op.value;
    if (op.kind == kLook) n.looked[t] = place;
    if (op.kind == kCopy && place != op.value) n.fault = op.fault;
    const bool awaits = op.kind == kAwait || op.kind == kSpin || (op.kind == kAwaitIf && !seen);
    if (awaits && place != op.value) {
      if (!gone || op.kind == kSpin) return;
      n = now;
      n.left[t] = 1;
      n.done[t] = 0;
      return sink(n, Move{t, "sees a member gone while it waits, leaves", -1});
    }
    sink(n, Move{t, op.deed, op.kind == kFence ? -1 : op.value});
  }

  // Places: two words of data each.
  int Stamp(int r, int s) const { return r * window + s % window; }
  int Row(int r, int s) const { return ranks * window + 2 * Stamp(r, s); }
  int Record(int s) const { return 3 * ranks * window + 2 * (s % window); }
  int WordOf(int s) const { return 3 * ranks * window + 2 * window + s % (2 * window); }

  // Rows and records: Steps::WriteRow, Look and TakePlan; StepPlanner::Poll.
  void MakeSteps() {
    names = {"daemon"};
    for (int s = 0; s < steps; ++s) {
      for (int r = 0; r < ranks; ++r) Collect(r, s);
      for (int half : {0, 1}) {
        threads[0].push_back({kStore, kRelaxed, At(Record(s) + half), Tag(s), "writes record"});
      }
      threads[0].push_back({kStore, relaxed_propose ? kRelaxed : kSeqCst, At(WordOf(s)), Tag(s),
                            "compare-exchanges the word of step"});
    }
    for (int r = 0; r < ranks; ++r) {
      names.push_back("rank " + std::to_string(r));
      for (int s = 0; s < steps; ++s) {
        if (s >= window && !reuse_unresolved) Resolve(r, s - window);
        WriteRow(r, s);
        if (s >= window && reuse_unresolved) Resolve(r, s - window);
      }
      for (int s = std::max(0, steps - window); s < steps; ++s) Resolve(r, s);
    }
  }
  static uint8_t At(int place) { return place; }
  static uint8_t Tag(int step) { return step + 1; }

  // An odd stamp would say: being written. Whoever sees it spins, for it cannot take long.
  void Collect(int r, int s) {
    const Order order = relaxed_stamp_load ? kRelaxed : kSeqCst;
    const uint8_t stamp = At(Stamp(r, s));
    if (in_place) {
      threads[0].push_back({kAwait, order, stamp, uint8_t(100 + s), "sees that a row begins"});
    }
    threads[0].push_back({in_place ? kSpin : kAwait, order, stamp, Tag(s), "finds the stamp of"});
    for (int half : {0, 1}) {
      threads[0].push_back(
          {kCopy, kRelaxed, At(Row(r, s) + half), Tag(s), "copies half of row", kStaleRow});
    }
  }
  void WriteRow(int r, int s) {
    auto& thread = threads[r + 1];
    const uint8_t stamp = At(Stamp(r, s));
    if (in_place) thread.push_back({kStore, kSeqCst, stamp, uint8_t(100 + s), "begins row"});
    if (in_place) thread.push_back({kFence, kRelaxed, 0, 0, "has a store fence"});
    for (int half : {0, 1}) {
      thread.push_back({kStore, kRelaxed, At(Row(r, s) + half), Tag(s), "writes half of row"});
    }
    thread.push_back({kStore, relaxed_stamp_store ? kRelaxed : kSeqCst, stamp, Tag(s), "stamps"});
  }
  void Resolve(int r, int s) {
    auto& thread = threads[r + 1];
    thread.push_back(
        {kAwait, relaxed_word_load ? kRelaxed : kAcquire, At(WordOf(s)), Tag(s), "reads word"});
    for (int half : {0, 1}) {
      thread.push_back({kCopy, kRelaxed, At(Record(s) + half), Tag(s), "copies half of record",
                        kStaleRecord});
    }
  }

  // The sleeping flag: PlanLoop::Sleep against WriteRow and RingDoorbell. The bell is a system
  // call; the planner goes on with the row, and only then the rank writes the next.
  void MakeSleep() {
    names = {"planner", "rank"};
    enum { kSleeping, kStamp, kBell, kTaken };
    const Order store = sleep_release_acquire ? kRelease : kSeqCst;
    const Order load = sleep_release_acquire ? kAcquire : kSeqCst;
    for (uint8_t tag = 1; tag <= steps; ++tag) {
      threads[0].push_back({kStore, store, kSleeping, 1, "sets its sleeping flag"});
      threads[0].push_back({kLook, load, kStamp, tag, "looks once more for stamp"});
      threads[0].push_back({kAwaitIf, kSeqCst, kBell, tag, "need not sleep or is woken by bell",
                            kFine, tag});
      threads[0].push_back({kAwait, load, kStamp, tag, "finds stamp"});
      threads[0].push_back({kStore, kRelaxed, kSleeping, 0, "clears its sleeping flag"});
      threads[0].push_back({kStore, kSeqCst, kTaken, tag, "has taken row"});
      threads[1].push_back({kStore, store, kStamp, tag, "stamps row"});
      threads[1].push_back({kLook, load, kSleeping, tag, "looks at the sleeping flag after stamp"});
      threads[1].push_back({kStoreIf, kSeqCst, kBell, tag, "rings if asked to, row", kFine, 1});
      threads[1].push_back({kAwait, kAcquire, kTaken, tag, "sees resolved row"});
    }
  }

  // A chunk and its flag: SendOne and CopyNonTemporal; the place is used again once accepted. The
  // first half is copied plainly (the unaligned head), the second past the caches.
  void MakeChunks() {
    names = {"sender", "receiver"};
    enum { kData, kFlag = 2, kAccepts };
    for (uint8_t tag = 1; tag <= steps; ++tag) {
      threads[0].push_back({kAwait, kAcquire, kAccepts, tag, "sees accepted"});
      threads[0].push_back({kStore, kRelaxed, kData, tag, "stores half of chunk"});
      threads[0].push_back({kStore, non_temporal ? kNonTemporal : kRelaxed, kData + 1, tag,
                            "streams half of chunk"});
      if (non_temporal && !no_store_fence) {
        threads[0].push_back({kFence, kRelaxed, 0, 0, "has a store fence"});
      }
      threads[0].push_back(
          {kStore, relaxed_flag_store ? kRelaxed : kRelease, kFlag, tag, "sets the flag to"});
      threads[1].push_back(
          {kStore, relaxed_accepts ? kRelaxed : kRelease, kAccepts, tag, "accepts"});
      threads[1].push_back(
          {kAwait, relaxed_flag_load ? kRelaxed : kAcquire, kFlag, tag, "finds the flag"});
      for (uint8_t half : {0, 1}) {
        threads[1].push_back(
            {kCopy, kRelaxed, uint8_t(kData + half), tag, "uses half of chunk", kStaleChunk});
      }
    }
  }
};

int Main(int argc, char** argv) {
  Publish m;
  CommandLine line;
  line.model = "publish";
  line.flags = {{"--protocol", &m.protocol, 0, 2, "0: rows, records; 1: sleeping flag; 2: chunks"},
                {"--ranks", &m.ranks, 1, 2, "ranks; protocol 0"},
                {"--window", &m.window, 1, 2, "K, steps that may be open; protocol 0"},
                {"--steps", &m.steps, 1, 4, "steps or operations"},
                {"--crashes", &m.crashes, 0, 1, "crashes of a thread, at any move"},
                {"--non-temporal", &m.non_temporal, 0, 1, "1: non-temporal stores; protocol 2"}};
  line.mutants = {
      {"relaxed_stamp_store", &m.relaxed_stamp_store, "the stamp is stored relaxed"},
      {"relaxed_stamp_load", &m.relaxed_stamp_load, "the daemon loads the stamp relaxed"},
      {"relaxed_propose", &m.relaxed_propose, "the word is compare-exchanged relaxed"},
      {"relaxed_word_load", &m.relaxed_word_load, "a rank loads the word relaxed"},
      {"reuse_unresolved", &m.reuse_unresolved, "row s is written before word s-K is read"},
      {"in_place", &m.in_place, "as a seqlock: an odd stamp first, readers spin on it"},
      {"sleep_release_acquire", &m.sleep_release_acquire, "the sleeping flag without seq_cst"},
      {"no_store_fence", &m.no_store_fence, "no fence between streamed data and its flag"},
      {"relaxed_flag_store", &m.relaxed_flag_store, "the chunk's flag is stored relaxed"},
      {"relaxed_flag_load", &m.relaxed_flag_load, "the chunk's flag is loaded relaxed"},
      {"relaxed_accepts", &m.relaxed_accepts, "accepts is stored relaxed"}};
  const int status = line.Parse(argc, argv);
  if (status >= 0) return status;
  if (m.protocol == 0) m.MakeSteps();
  if (m.protocol == 1) m.MakeSleep();
  if (m.protocol == 2) m.MakeChunks();
  for (const auto& thread : m.threads) {
    if (thread.size() > kMaxOps) {
      std::fprintf(stderr, "publish_model: more than %d operations in a thread\n", kMaxOps);
      return 2;
    }
  }
  return line.Check(m);
}

}  // namespace
}  // namespace ultraep::model

int main(int argc, char** argv) { return ultraep::model::Main(argc, argv); }

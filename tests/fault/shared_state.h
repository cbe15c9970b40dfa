// What the processes of a kill loop tell each other, in one anonymous mapping made before any fork.
// It is the harness's own and shares nothing with the product.
#pragma once

#include <atomic>
#include <cstdint>

namespace ultraep::test {

inline constexpr uint32_t kMostRanks = 4, kMostGroups = 8;
inline constexpr uint64_t kRing = 1 << 15;  // steps; a rank further behind is not compared

enum Outcome : uint64_t { kNoOutcome, kPlanned, kFellBack, kDeclined, kLost };
inline const char* OutcomeName(uint64_t outcome) {
  const char* const names[] = {"nothing", "PLAN", "FALLBACK", "DECLINED", "FAILED"};
  return outcome <= kLost ? names[outcome] : "rubbish";
}

// One rank's way through one step. Every word carries the step, so that a stale one is no answer.
struct Entry {
  std::atomic<uint64_t> submitted;  // step + 1, stored after `first` and before the submit
  std::atomic<uint64_t> first;      // first step of the process that submits
  std::atomic<uint64_t> outcome;    // (step + 1) << 3 | Outcome, right after the await
  std::atomic<uint64_t> held;  // (step + 1) << 1 | the plan was followed to its end and is held
};

enum Call : uint32_t {
  kIdle,
  kAttach,
  kJoin,
  kSubmit,
  kAwait,
  kStream,
  kRoute,
  kAwaitWeights,
  kRelease,
  kFree,
  kRestore,
  kPrepare,
  kReduce,
  kAwaitGradients
};
inline const char* CallName(uint32_t call) {
  const char* const names[] = {"nothing", "attach",  "join",          "submit",         "await",
                               "stream",  "route",   "await_weights", "release",        "free",
                               "restore", "prepare", "reduce",        "await_gradients"};
  return call <= kAwaitGradients ? names[call] : "rubbish";
}

struct RankState {
  std::atomic<uint32_t> call;
  std::atomic<uint64_t> since_ns;      // when the call began
  std::atomic<uint64_t> next;          // step to be submitted next
  std::atomic<uint64_t> at;            // step being resolved
  std::atomic<uint64_t> planned_next;  // last step followed with a plan, + 1
  std::atomic<uint32_t> phase;         // ultraep_client_state, looked at when declined
};

struct Counters {
  std::atomic<uint64_t> steps, planned, fallback, declined, failed, restored, slots_checked;
  std::atomic<uint64_t> gradients_checked;
};

// A step goes wrong for a reason or not at all. `disturbed` rises before the harness kills or stops
// something, `settled` follows once all ranks plan again. The same for what may cost a plan
// (FAILED): only the loss of a rank.
struct Cause {
  std::atomic<uint64_t> disturbed, settled;

  void Disturb() { disturbed.fetch_add(1); }
  void Settle() { settled.store(disturbed.load()); }
  bool active() const { return disturbed.load() != settled.load(); }
};

struct GroupState {
  std::atomic<uint64_t> called;  // highest step any rank has submitted, + 1
  Cause any, loss;
  Counters counters;
  RankState ranks[kMostRanks];
  Entry ring[kRing][kMostRanks];

  Entry& at(uint64_t step, uint32_t rank) { return ring[step % kRing][rank]; }
};

struct SharedState {
  static constexpr uint32_t kTexts = 16, kTextBytes = 512;

  std::atomic<uint32_t> violations;
  char text[kTexts][kTextBytes];
  std::atomic<uint64_t> pairs_read;  // by the reader
  GroupState groups[kMostGroups];
};

// Raises a word to at least `value`.
inline void RaiseTo(std::atomic<uint64_t>& word, uint64_t value) {
  uint64_t seen = word.load();
  while (seen < value && !word.compare_exchange_weak(seen, value)) {
  }
}

// Both followed the plan, or both used the main copies; a lost PLAN is no FALLBACK either.
inline bool Mixed(uint64_t a, uint64_t b) {
  const bool plan_a = a == kPlanned || a == kLost, plan_b = b == kPlanned || b == kLost;
  return plan_a != plan_b;
}

__attribute__((format(printf, 2, 3))) void Violation(SharedState* shared, const char* format, ...);

}  // namespace ultraep::test

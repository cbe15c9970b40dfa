// The reduction of replica gradients: their homes sum them out of the slots on one or two slot
// sets, while ranks crash, give up, or miss a call. Rule numbers are those of the design, section
// 5; both words stand in the slot that they are about, not one per rank and set.
//
//   caller   for every operation N: join the reductions before it but the last --ahead ones, their
//            main gradients then change; if the rank's slot has a replica, wait until the home of
//            the slot's last use has taken what that left there, zero the gradient, add to it, both
//            in two halves; then, or with --overlap 1 when N+1 is as far, ready = N and issue N
//   worker   for every issued operation, one after the other: for every replica of own experts in
//            rank order, wait for ready == N and read two halves; then taken = N in all their slots
//   number   a count and a digest of the calls before it. A rank whose word has the count that is
//            waited for, or a later one, and is another number, is elsewhere: nobody waits for it
//   gate     set to FAILED by a thread whose wait cannot end: the rank it waits for is gone or
//            elsewhere, or it reaches its bound. Every wait watches it; who reads FAILED stops
//
// The first move chooses the replicas of all operations, one slot per rank and set. A half holds
// the operation that added to it, a word that one's number; 0 is "zero" and "never written". Every
// operation has main gradients of its own, those of another layer.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "search.h"

namespace ultraep::model {

constexpr int kMaxRanks = 3, kMaxSets = 2, kMaxOps = 4;
constexpr uint8_t kMixed = 255;  // a half to which two operations have added

enum Work : uint8_t { kPrepare, kZero, kZeroRest, kAdd, kAddRest, kCallsNoMore };
enum Sum : uint8_t { kAwait, kRead, kReadRest, kTake, kSumsNoMore };
enum Fault : uint8_t { kFine, kPartial, kWrong, kLost, kOutOfOrder, kMainChanged };
constexpr const char* kFaultText[] = {nullptr,
                                      "a home sums a partial or overwritten gradient",
                                      "a home sums another operation's gradient",
                                      "a replica's gradient is lost or summed twice",
                                      "a home sums in another order",
                                      "main gradients change under a reduction"};

using Plan = std::array<int, kMaxRanks>;  // whose expert each rank's slot holds; -1: none
using Run = std::vector<uint8_t>;         // every operation's plan

struct Slot {
  uint8_t half[2], ready, taken;
};

struct Caller {
  uint8_t op, filled, joined;  // operations issued, with their gradient in the slot, joined
  Work work;
};

struct Worker {
  uint8_t op, at;  // at the replica in the slot of rank `at`
  Sum work;
};

// The options, the properties and the plans.
struct GradientBoard {
  struct State {
    Slot slots[kMaxRanks][kMaxSets];
    Caller callers[kMaxRanks];
    Worker workers[kMaxRanks];
    uint8_t crashed[kMaxRanks], summed[kMaxOps];  // summed: a bit for every rank's slot
    uint8_t plan[kMaxOps], chosen, begun, failed, crashes, alarms;
    uint8_t misses, missed;  // rank + 1 that misses a call, and which
    Fault fault;
  };

  int ranks = 2, sets = 1, ops = 3, ahead = 1, crashes = 1, alarms = 1, dense = 0, same = 0;
  int overlap = 0, misses = 0;
  bool no_zero = false, zero_before_taken = false, forget_use = false, ready_before_data = false;
  bool taken_before_read = false, sum_after_failed = false, at_least = false;
  bool plain_count = false, skip_unready = false, ready_first = false, set_word = false;
  bool add_before_join = false, blind_wait = false, shared_set = false;
  std::vector<Plan> plans;
  std::vector<Run> runs;

  State Initial() const { return {}; }
  std::string Describe(const Move& m) const {
    if (m.rank >= 0) {
      return "rank " + std::to_string(m.rank) + " " + m.deed +
             (m.number < 0 ? "" : " " + std::to_string(m.number));
    }
    std::string text = m.deed;
    for (int op = 0; m.number >= 0 && op < ops; ++op) {
      text += (op ? ", " : " ") + std::to_string(op) + ":";
      const Plan& plan = plans[runs[m.number][op]];
      for (int r = 0; r < ranks; ++r) {
        if (plan[r] < 0) continue;
        text += " [expert of " + std::to_string(plan[r]) + " on " + std::to_string(r) + "]";
      }
    }
    return text;
  }

  const char* Violation(const State& now) const {
    if (now.fault != kFine) return kFaultText[now.fault];
    const bool cause = now.crashes > 0 || now.alarms > 0 || now.misses > 0;
    return now.failed && !cause ? "FAILED without a cause" : nullptr;
  }

  const char* AtRest(const State& now) const {
    for (int r = 0; r < ranks; ++r) {
      const Caller& caller = now.callers[r];
      const Worker& worker = now.workers[r];
      const bool called = caller.joined == Calls(now, r), summed = worker.op == Calls(now, r);
      const bool stopped = now.failed && (called || caller.work == kCallsNoMore) &&
                           (summed || worker.work == kSumsNoMore);
      if (!now.crashed[r] && !(called && summed) && !stopped) return "deadlock: a live rank hangs";
    }
    return nullptr;
  }

  bool Goal(const State& now) const {
    return !now.failed && std::all_of(now.callers, now.callers + ranks,
                                      [&](const Caller& caller) { return caller.joined == ops; });
  }

  // Every choice of replicas for all operations. Of runs that differ only in the ranks' names, and
  // in which homes sum in the same order, one is enough.
  void MakeRuns() {
    int count = 1;
    for (int r = 0; r < ranks; ++r) count *= ranks;
    for (int i = 0; i < count; ++i) {
      Plan plan = {-1, -1, -1};
      for (int r = 0, rest = i; r < ranks; ++r, rest /= ranks) {
        if (rest % ranks != r) plan[r] = rest % ranks;
      }
      if (!dense || std::count(plan.begin(), plan.begin() + ranks, -1) == 0) plans.push_back(plan);
    }
    std::sort(plans.begin(), plans.end());
    Extend({});
  }

  // How many operations a rank calls, and which its k-th is: one that misses a call is ahead.
  int Calls(const State& now, int r) const { return ops - (now.misses == r + 1); }
  static bool Differs(const State& now, int r, int k) {
    return now.misses == r + 1 && k >= now.missed;
  }
  static int Op(const State& now, int r, int k) { return k + Differs(now, r, k); }
  const Plan& PlanOf(const State& now, int r, int k) const {
    return plans[now.plan[Op(now, r, k)]];
  }

  // What its bytes are, what ready and taken call it, and the count in that.
  static uint8_t Bytes(int op) { return op + 1; }
  uint8_t Number(const State& now, int r, int k) const {
    return k + 1 + (Differs(now, r, k) && !plain_count ? kMaxOps : 0);
  }
  static int Count(uint8_t number) { return number > kMaxOps ? number - kMaxOps : number; }

  static bool Summed(const State& now, int op, int r) { return now.summed[op] >> r & 1; }

 private:
  void Extend(const Run& run) {
    if (int(run.size()) == ops) {
      if (IsLeast(run)) runs.push_back(run);
      return;
    }
    for (size_t i = 0; i < plans.size(); ++i) {
      if (same && !run.empty() && i != run[0]) continue;
      Run longer = run;
      longer.push_back(i);
      Extend(longer);
    }
  }

  // Whether no renaming that keeps the order in which homes sum makes an earlier run of this one.
  bool IsLeast(const Run& run) const {
    Plan name = {0, 1, 2};
    do {
      bool keeps = true;
      Run renamed;
      for (uint8_t i : run) {
        Plan other = {-1, -1, -1};
        for (int r = 0; r < ranks; ++r) {
          const int home = plans[i][r];
          other[name[r]] = home < 0 ? -1 : name[home];
          for (int q = 0; q < r; ++q) {
            keeps = keeps && (home < 0 || plans[i][q] != home || name[q] < name[r]);
          }
        }
        renamed.push_back(std::lower_bound(plans.begin(), plans.end(), other) - plans.begin());
      }
      if (keeps && renamed < run) return false;
    } while (std::next_permutation(name.begin(), name.begin() + ranks));
    return true;
  }
};

}  // namespace ultraep::model

// The release of slots: numbered forward operations on one or two slot sets, sent directly or by
// relays, while ranks crash and others give up. Rule numbers are those of the design, section 5.
//
//   sender   for every transfer of its own, in order of operation and index, chunk by chunk:
//            wait for released[dest] >= op-1 and, for a relay, the parent's flag; two halves; flag
//   worker   for every operation: wait for the flags of its slot; use the slot; wait for its own
//            sends; publish released = op. After the last one the main weights change.
//   gate     set to FAILED by a waiting thread that sees a member gone or reaches its bound; every
//            wait watches it. A thread that reads FAILED stops.
//
// The first moves choose each operation's plan out of all legal ones with one slot per rank and
// set. A half chunk and a flag hold the number of the operation that wrote them, 0 is "never
// written".
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "search.h"

namespace ultraep::model {

constexpr int kMaxRanks = 3, kMaxSets = 2, kMaxOps = 4, kChunks = 2;

enum Work : uint8_t { kWaitFlags, kUse, kUsed, kWaitSends, kStopped };
enum Fault : uint8_t { kFine, kPartialUse, kPartialRelay, kMainChanged };
constexpr const char* kFaultText[] = {nullptr, "a live rank uses a partial or overwritten slot",
                                      "a relay reads a partial or overwritten chunk",
                                      "main weights change under a transfer"};

struct Transfer {
  int home;    // rank whose main weights travel
  int parent;  // earlier transfer whose copy is relayed; -1: the main weights
  int from, to;
};
using Plan = std::vector<Transfer>;

struct Slot {
  uint8_t half[kChunks][2], flag[kChunks], released;
};

struct Sender {
  uint8_t op, transfer, chunk, halves, stopped;
};

struct Worker {
  uint8_t op;
  Work work;
};

// The options, the properties and the plans.
struct SlotBoard {
  struct State {
    Slot slots[kMaxRanks][kMaxSets];
    Sender senders[kMaxRanks];
    Worker workers[kMaxRanks];
    uint8_t crashed[kMaxRanks], main_changed[kMaxRanks];
    uint8_t plan[kMaxOps], chosen, failed, crashes, alarms;
    Fault fault;
  };

  int ranks = 2, sets = 1, ops = 3, crashes = 1, alarms = 1, dense = 0, same = 0, overlap = 0;
  bool no_released = false, flag_before_data = false, release_before_sends = false;
  bool release_before_use = false, blind_wait = false, use_after_failed = false;
  bool shared_set = false, blind_relay = false, release_before_relays = false;
  std::vector<Plan> plans;

  State Initial() const { return {}; }
  std::string Describe(const Move& m) const {
    if (m.rank >= 0) {
      return "rank " + std::to_string(m.rank) + " " + m.deed +
             (m.number < 0 ? "" : " " + std::to_string(m.number));
    }
    std::string text = m.deed;
    for (const Transfer& t : plans[m.number]) {
      text += " [expert of " + std::to_string(t.home) + ": " + std::to_string(t.from) + " to " +
              std::to_string(t.to) + (t.parent < 0 ? "]" : ", relay]");
    }
    return text + (plans[m.number].empty() ? " nothing" : "");
  }

  const char* Violation(const State& now) const { return kFaultText[now.fault]; }

  const char* AtRest(const State& now) const {
    for (int r = 0; r < ranks; ++r) {
      const bool sent = now.senders[r].op == ops, worked = now.workers[r].op == ops;
      const bool stopped = now.failed && (sent || now.senders[r].stopped) &&
                           (worked || now.workers[r].work == kStopped);
      if (!now.crashed[r] && !(sent && worked) && !stopped) return "deadlock: a live rank hangs";
    }
    return nullptr;
  }

  bool Goal(const State& now) const {
    return std::count(now.main_changed, now.main_changed + ranks, 1) == ranks;
  }

  // Every list of transfers in which a rank gets at most one replica and parents come first.
  void MakePlans(const Plan& plan = {}) {
    if (!dense || int(plan.size()) == ranks) plans.push_back(plan);
    for (int to = 0; to < ranks; ++to) {
      if (std::any_of(plan.begin(), plan.end(), [&](auto& t) { return t.to == to; })) continue;
      for (int home = 0; home < ranks; ++home) {
        if (home == to) continue;
        for (int parent = -1; parent < int(plan.size()); ++parent) {
          if (parent >= 0 && plan[parent].home != home) continue;
          Plan longer = plan;
          longer.push_back({home, parent, parent < 0 ? home : plan[parent].to, to});
          MakePlans(longer);
        }
      }
    }
  }

  int Set(int op) const { return shared_set ? 0 : op % sets; }
  uint8_t Number(int op) const { return shared_set ? op + 1 : op / sets + 1; }

  // Ranks are interchangeable: the first plan names them in the order in which they appear.
  static bool InOrder(const Plan& plan) {
    int named = 0;
    for (const Transfer& t : plan) {
      for (int rank : {t.from, t.to}) {
        if (rank > named) return false;
        named += rank == named;
      }
    }
    return true;
  }
};

}  // namespace ultraep::model

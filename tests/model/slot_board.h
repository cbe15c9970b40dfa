// The release of slots: numbered operations on one or two slot sets, sent directly or by relays,
// while ranks crash, give up, miss a call, or are wedged in the middle of a store. Rule numbers are
// those of the design, section 5.
//
//   issue    operation N on a set, once the rank's own previous one there is released: its compute,
//            relays, sends and inbound transfers are done. Publishes accepts[set] = N
//   sender   for every transfer of its own issued operations, in order, chunk by chunk: wait for
//            accepts[dest] == N and, for a relay, the parent's flag; two halves; flag = N
//   worker   for every issued operation: wait for flags == N; use the slot; wait for its own sends.
//            After the last one the main weights change
//   number   a count, anew in every generation, and a digest of the calls before it
//   gate     set to FAILED by a waiting thread that sees a member gone or reaches its bound, and by
//            the daemon that fences a member; every wait watches it. Who reads FAILED stops. With
//            --memories 2 the group then goes on in a new generation, on new memory
//   stray    stores of a wedged sender, which nobody can call back: they land at any later moment
//
// The first moves choose each operation's plan out of all legal ones with one slot per rank and
// set. A half chunk holds the operation that wrote it, a flag that one's number; 0 is "never
// written".
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "search.h"

namespace ultraep::model {

constexpr int kMaxRanks = 3, kMaxSets = 2, kMaxOps = 4, kChunks = 2, kMaxMemories = 2;

enum Work : uint8_t { kWaitFlags, kUse, kUsed, kWaitSends, kStopped };
enum Fault : uint8_t { kFine, kPartialUse, kWrongUse, kPartialRelay, kMainChanged };
constexpr const char* kFaultText[] = {nullptr, "a live rank uses a partial or overwritten slot",
                                      "a live rank uses a wrong slot",
                                      "a relay reads a partial or overwritten chunk",
                                      "main weights change under a transfer"};

struct Transfer {
  int home;    // rank whose main weights travel
  int parent;  // earlier transfer whose copy is relayed; -1: the main weights
  int from, to;
};
using Plan = std::vector<Transfer>;

struct Slot {
  uint8_t half[kChunks][2], flag[kChunks], accepts;
};

struct Sender {
  uint8_t op, transfer, chunk, halves, stopped;
};

struct Worker {
  uint8_t op, issued;
  Work work;
};

struct Stray {
  uint8_t lands, memory, rank;
  Sender sender;
};

// The options, the properties and the plans.
struct SlotBoard {
  struct State {
    Slot slots[kMaxMemories][kMaxRanks][kMaxSets];
    Sender senders[kMaxRanks];
    Worker workers[kMaxRanks];
    Stray stray;
    uint8_t crashed[kMaxRanks], main_changed[kMaxRanks];
    uint8_t plan[kMaxOps], chosen, ready, memory, failed, crashes, alarms, wedges;
    uint8_t misses, missed;  // rank + 1 that misses a call, and which
    Fault fault;
  };

  int ranks = 2, sets = 1, ops = 3, crashes = 1, alarms = 1, dense = 0, same = 0, overlap = 0;
  int misses = 0, wedges = 0, memories = 1;
  bool no_accepts = false, flag_before_data = false, release_before_sends = false;
  bool issue_before_use = false, blind_wait = false, use_after_failed = false;
  bool shared_set = false, blind_relay = false, release_before_relays = false;
  bool release_before_inbound = false, plain_count = false, reuse_failed_memory = false;
  std::vector<Plan> plans;

  State Initial() const { return {}; }
  std::string Describe(const Move& m) const {
    if (m.rank >= 0 || m.number < 0) {
      return (m.rank < 0 ? "" : "rank " + std::to_string(m.rank) + " ") + m.deed +
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
      const bool sent = now.senders[r].op == Calls(now, r);
      const bool worked = now.workers[r].op == Calls(now, r);
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

  // How many operations a rank calls, and which its k-th is: one that misses a call is ahead.
  int Calls(const State& now, int r) const { return ops - (now.misses == r + 1); }
  static bool Differs(const State& now, int r, int k) {
    return now.misses == r + 1 && k >= now.missed;
  }
  static int Op(const State& now, int r, int k) { return k + Differs(now, r, k); }
  const Plan& PlanOf(const State& now, int r, int k) const {
    return plans[now.plan[Op(now, r, k)]];
  }

  // What its bytes are, and what flags and accepts call it.
  static uint8_t Bytes(int memory, int op) { return memory * kMaxOps + op + 1; }
  uint8_t Number(const State& now, int r, int k) const {
    return k + 1 + (Differs(now, r, k) && !plain_count ? kMaxOps : 0);
  }
  int Sets() const { return shared_set ? 1 : sets; }
  Slot& SlotOf(State& n, int memory, int r, int k) const {
    return n.slots[reuse_failed_memory ? 0 : memory][r][k % Sets()];
  }

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

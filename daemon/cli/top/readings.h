// What `ultraepctl top` shows, computed from two readings of the daemon's counters.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "daemon/status_json.h"
#include "protocol/operator_messages.h"

namespace ultraep {

// One reading of the daemon.
struct Reading {
  uint64_t time_ns = 0;  // CLOCK_MONOTONIC
  uint64_t unix_ns = 0;
  double cpu_seconds = -1;  // that the daemon has used; < 0: not known
  StatusDaemon daemon;
  std::vector<StatusGroup> groups;
};

// What is not known, or has no value since no step was planned, is NaN.
struct TopGroup {
  std::string name;
  std::string gate;
  uint32_t ranks = 0;
  uint32_t ready = 0;
  std::string not_ready;        // which ranks, in words
  double steps_per_second = 0;  // planned ones
  double before = 0;            // imbalance
  double after = 0;
  double replicas = 0;  // per planned step
  uint32_t slots = 0;   // of all ranks, in one slot set
  double plan_p99_us = 0;
  double verdict_p99_us = 0;
  double stream_p99_us = 0;
  uint64_t fallbacks = 0;
  uint64_t fallbacks_total = 0;
  double avoided_per_second = 0;  // tokens
  // Imbalance in each of the last sixty seconds, oldest first.
  std::vector<double> past_before;
  std::vector<double> past_after;
};

// An event, and how many like it came at once.
struct TopEvent {
  Event event;
  uint64_t times = 1;
};

struct TopView {
  double seconds = 0;  // between the two readings; 0: there is only one yet
  uint64_t unix_ns = 0;
  double cpu_share = 0;  // CPUs of the daemon, NaN: not known
  StatusDaemon daemon;
  std::vector<TopGroup> groups;
};

enum class TopOrder { kName, kSteps, kImbalance, kFallbacks, kAvoided };
inline constexpr const char* kTopOrders[] = {"name", "steps", "imbalance", "fallbacks", "avoided"};

// The numbers of one group between two readings of it.
TopGroup CompareGroup(const StatusGroup& earlier, const StatusGroup& now, double seconds);
void SortGroups(TopOrder order, std::vector<TopGroup>* groups);
// The last ones stay; fallbacks of one group for one reason in a row are one, the last.
void AddEvents(const std::vector<Event>& more, std::vector<TopEvent>* events);
// One line of `ultraepctl top --json`.
Json TopJson(const TopView& view);

class Readings {
 public:
  TopView Add(Reading reading);

 private:
  struct Past {
    uint64_t begin_ns, end_ns;
    double before, after;
  };
  static void Remember(const Past& past, std::deque<Past>* all, TopGroup* group);

  bool any_ = false;
  Reading last_;
  std::map<std::string, std::deque<Past>> past_;  // by a group's key
};

}  // namespace ultraep

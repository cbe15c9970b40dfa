// What everybody but the session and planner threads may see of the node: published by the session
// thread at the end of each of its rounds, read by metrics and status page at any time. Reading
// takes a lock that the planner never takes, and looks at counters that it goes on writing.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/session/believed_ranks.h"
#include "daemon/session/event_log.h"
#include "daemon/session/group_generation.h"
#include "daemon/session/statistics.h"
#include "protocol/operator_messages.h"

namespace ultraep {

// Where the numbers of one group are.
struct GroupSource {
  StatusGroup fixed;            // what the session thread knows; the rest is zero
  RankStatistics ranks_before;  // of generations that are no longer kept
  std::vector<std::shared_ptr<GroupGeneration>> generations;  // that are kept, in their order
  bool present = false;  // is the last one the present one, or are all left behind?
  std::shared_ptr<StepStatistics> statistics;
  std::shared_ptr<BelievedRanks> believed;

  // Any thread. The numbers of this moment.
  StatusGroup Status() const;
};

// Groups of one name that are closed, summed.
struct ClosedGroup {
  StatusGroup sums;        // counters; of the rest only the last one's name and config
  double mean_tokens = 0;  // MeanTokens, summed: they may have had different numbers of ranks
};

// Tokens of the average rank, summed over planned steps.
inline double MeanTokens(const StatusGroup& group) {
  return group.config.ranks ? double(group.counters.tokens_sum) / group.config.ranks : 0;
}

// A reading of the whole node.
struct NodeSnapshot {
  StatusDaemon daemon;
  std::vector<StatusGroup> groups;                   // living
  std::vector<std::vector<LayerStatistics>> layers;  // of each of them, where they were asked for
  // Closed groups by name: those whose name lives, and the last NodeView::kClosedNames others.
  std::vector<ClosedGroup> closed;
  // All groups ever closed, counters summed: with the living ones, what this daemon has counted.
  StatusGroup closed_sum;
};

class NodeView {
 public:
  static constexpr size_t kClosedNames = 64;

  // The session thread.
  void Publish(const StatusDaemon& daemon, std::vector<GroupSource> groups);
  // It is closed: its numbers are final. Publish follows.
  void Close(const GroupSource& group);

  // Any thread. layers: with the numbers per layer, which may be many.
  NodeSnapshot Read(bool layers = false) const;
  // The last verdicts of each living group, at most `most` per group, oldest first.
  // fallbacks_only: those that fell back, which are kept longer.
  std::vector<Event> LastVerdicts(bool fallbacks_only, size_t most) const;
  EventLog& events() { return events_; }
  const EventLog& events() const { return events_; }
  // 0: there are no metrics.
  void set_metrics_port(uint32_t port) { metrics_port_.store(port); }
  uint32_t metrics_port() const { return metrics_port_.load(); }

 private:
  std::vector<GroupSource> Groups() const;
  void ForgetOldNames();

  EventLog events_;
  std::atomic<uint32_t> metrics_port_{0};
  mutable std::mutex mutex_;  // guards what follows
  StatusDaemon daemon_;
  std::vector<GroupSource> groups_;
  std::vector<ClosedGroup> closed_;  // the name that was closed last comes last
  StatusGroup closed_sum_;
};

// As an event of the group.
Event VerdictEvent(const StepVerdict& verdict, const GroupConfig& group);

}  // namespace ultraep

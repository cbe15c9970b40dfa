// What everybody but the session and planner threads may see of the node: published by the session
// thread at the end of each of its rounds, read by metrics and status page at any time. Reading takes
// a lock for some microseconds that the planner never takes, and looks at counters that it goes on
// writing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/session/group_generation.h"
#include "daemon/session/statistics.h"
#include "protocol/operator_messages.h"

namespace ultraep {

// Where the numbers of one living group are. Status() may be called by any thread.
struct GroupSource {
  StatusGroup fixed;  // config, uid, members, memory ... as of publishing; numbers zero
  RankStatistics ranks_before;  // of generations that are no longer kept
  std::vector<std::shared_ptr<GroupGeneration>> generations;  // the kept ones, the present one last
  bool present = false;  // is the last one present, or over and left behind?
  std::shared_ptr<StepStatistics> statistics;

  StatusGroup Status() const;
};

// A reading of the whole node.
struct NodeSnapshot {
  StatusDaemon daemon;
  std::vector<StatusGroup> groups;                     // living
  std::vector<std::vector<LayerStatistics>> layers;    // of each of them; empty without detail
  // Groups that are closed, summed by name; kept for the last kClosedNames names.
  std::vector<StatusGroup> closed;
  // All groups ever closed, summed: with the living ones, what this daemon has counted in its life.
  StatusGroup closed_sum;
  uint64_t closed_groups = 0;
};

class NodeView {
 public:
  static constexpr size_t kClosedNames = 64;

  // The session thread.
  void Publish(const StatusDaemon& daemon, std::vector<GroupSource> groups);
  // Its numbers are final. Publish follows.
  void Close(const StatusGroup& group);

  // Any thread.
  NodeSnapshot Read() const;
  // The last verdicts of each living group, oldest first, at most `most` per group; fallbacks_only:
  // those that fell back, which are kept longer.
  std::vector<Event> LastVerdicts(bool fallbacks_only, size_t most) const;

 private:
  mutable std::mutex mutex_;  // guards what follows
  StatusDaemon daemon_;
  std::vector<GroupSource> groups_;
  std::vector<StatusGroup> closed_;
  StatusGroup closed_sum_;
  uint64_t closed_groups_ = 0;
};

}  // namespace ultraep

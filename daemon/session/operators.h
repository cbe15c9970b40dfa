// What ultraepctl asks of the daemon: status, events, recordings.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/session/groups.h"
#include "daemon/session/node_view.h"

namespace ultraep {

// What a connection has asked for so far.
struct OperatorState {
  bool follows = false;
  uint64_t log_cursor = 0;
  struct Followed {
    GroupConfig group;
    uint64_t cursor = 0;
  };
  // A closed group stays until it is read to its end.
  std::map<std::shared_ptr<StepStatistics>, Followed> followed;
  std::shared_ptr<Group> traced;  // null: it records nothing
  std::shared_ptr<TraceTap> tap;
};

// The session thread's. Users see their own groups; root and the daemon's own user see all.
class Operators {
 public:
  Operators(const DaemonOptions& options, const Groups& groups, NodeView* view)
      : options_(options), groups_(groups), view_(view) {}

  // False: the connection is to be closed.
  bool Status(int socket, uid_t uid, const StatusDaemon& daemon) const;
  bool Events(int socket, uid_t uid, const EventsRequest& request, OperatorState* state);
  Refusal Trace(int socket, uid_t uid, const TraceRequest& request, OperatorState* state);
  // The connection closes.
  void Close(OperatorState* state);

  void Fill(StatusDaemon* daemon) const;

 private:
  bool Sees(uid_t uid, const GroupKey& key) const;
  std::shared_ptr<Group> GroupToTrace(uid_t uid, const std::string& name, Refusal* refusal) const;
  void Follow(uid_t uid, const EventsRequest& request, OperatorState* state) const;
  uint64_t ReadVerdicts(const EventsRequest& request, OperatorState* state, size_t most,
                        std::vector<Event>* events) const;

  const DaemonOptions options_;
  const Groups& groups_;
  NodeView* const view_;
  std::vector<std::weak_ptr<TraceTap>> taps_;
  uint64_t trace_dropped_ = 0;  // by recordings that are over
  uint64_t events_dropped_ = 0;
};

}  // namespace ultraep

// What ultraepctl asks of the daemon: status, events, recordings.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
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
  bool verdicts = false;  // all of them, not only fallbacks
  EventLog::Cursors log;
  struct Followed {
    GroupConfig group;
    uint64_t cursor = 0;
  };
  std::map<std::shared_ptr<StepStatistics>, Followed> followed;
  // Last verdicts of groups that are closed, and how many more there were.
  std::vector<Event> pending;
  uint64_t missed = 0;
  std::shared_ptr<Group> traced;  // null: it records nothing
  std::shared_ptr<TraceTap> tap;
};

// The session thread's. Users see their own groups; root and the daemon's own user see all.
class Operators {
 public:
  Operators(const DaemonOptions& options, const Groups& groups, NodeView* view)
      : options_(options), groups_(groups), view_(view) {}

  // False: the connection is to be closed.
  bool Status(int socket, uid_t uid, const StatusRequest& request,
              const StatusDaemon& daemon) const;
  bool Events(int socket, uid_t uid, const EventsRequest& request, OperatorState* state);
  Refusal Trace(int socket, uid_t uid, const TraceRequest& request, OperatorState* state);
  // The connection closes.
  void Close(OperatorState* state);
  // The group is closed: no connection may keep its memory.
  void Forget(const Group& group, OperatorState* state) const;
  // Now and then: frees what readers of ended recordings have had time to read.
  void Tidy(uint64_t now);

  void Fill(StatusDaemon* daemon) const;

 private:
  // A ring that somebody may still map.
  struct Ring {
    uid_t uid = 0;
    std::weak_ptr<TraceTap> tap;
    std::shared_ptr<TraceTap> ended;  // its group is closed, its reader not yet done
    uint64_t until_ns = 0;            // then it is emptied
  };

  static bool SeesAll(uid_t uid);
  static bool Sees(uid_t uid, const GroupKey& key) { return SeesAll(uid) || uid == key.uid; }
  Refusal CheckRing(uid_t uid, uint64_t bytes) const;
  std::shared_ptr<Group> GroupToTrace(uid_t uid, const std::string& name, Refusal* refusal) const;
  void Follow(uid_t uid, bool from_now, OperatorState* state) const;
  uint64_t ReadVerdicts(OperatorState* state, size_t most, std::vector<Event>* events) const;

  const DaemonOptions options_;
  const Groups& groups_;
  NodeView* const view_;
  std::vector<Ring> rings_;
  uint64_t trace_dropped_ = 0;  // by recordings that are over
  uint64_t events_dropped_ = 0;
};

}  // namespace ultraep

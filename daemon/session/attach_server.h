// The session thread: accepts ranks and operators, forms groups, notices who is gone. Woken by the
// attach socket, by connections, by pidfds, and ten times a second by its clock while there are groups (leases).
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/options.h"
#include "daemon/session/groups.h"
#include "daemon/session/operators.h"
#include "daemon/session/plan_loop.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

class AttachServer {
 public:
  AttachServer(const DaemonOptions& options, Descriptor listener, const NodeDevices& devices,
               PlanLoop* planner, NodeView* view);
  ~AttachServer();

  // The body of the thread; returns after Stop, with every generation ended.
  void Run();
  void Stop();
  // Any thread. Rounds of the thread so far; Ping makes it do one more, unless it is stuck.
  uint64_t rounds() const { return rounds_.load(std::memory_order_relaxed); }
  void Ping();

 private:
  struct Connection;

  // One round: serves what is there, waiting at most `timeout_ms`; false after Stop.
  bool Serve(int timeout_ms);
  void Accept();
  bool RefuseTooMany(Connection* connection);
  void Watch(int fd, uint64_t id);
  void Receive(Connection* connection);
  void TakeLastWords(Connection* connection);
  // False: the connection is to be closed.
  bool Handle(Connection* connection, const Packet& packet);
  bool HandleReady(Connection* connection, const Ready& ready);
  bool HandleJoin(Connection* connection, const Join& join);
  // The member says why it cannot take part: all of its group are told.
  bool HandleRefusal(Connection* connection, const Refused& refused);
  bool HandleTrace(Connection* connection, const TraceRequest& request);
  // Always false. retry: the reason may go away by itself.
  bool Refuse(Connection* connection, const std::string& text, RefusalKind kind,
              bool retry = false);
  bool Refuse(Connection* connection, const Refusal& refusal);
  void BeginGeneration(const std::shared_ptr<Group>& group);
  // Passes new generations to those who have read what they got before.
  void SendDue();
  bool SendGeneration(Connection* connection);
  void CheckLeases(uint64_t now);
  // To the members' connections, and who follows events: the generation is over.
  void TellOver(Group* group);
  void NoteOver(Group* group);
  void Note(const Connection& connection, EventKind kind);
  void Publish();
  StatusDaemon Daemon() const;
  void Close(uint64_t id);
  void CloseDrained();
  void LeaveGroup(Connection* connection, MemberState how);

  const DaemonOptions options_;
  Descriptor listener_, epoll_, stop_, ping_, spare_;
  std::atomic<uint64_t> rounds_{0};
  const NodeDevices& devices_;
  PlanLoop* const planner_;
  NodeView* const view_;
  Groups groups_;
  Operators operators_;
  const uint64_t started_ns_;
  uint64_t leases_checked_ns_ = 0;
  uint64_t next_id_ = 3;  // 0 is the listener, 1 the stop event, 2 the ping
  uint64_t refused_[kRefusalKinds] = {};
  uint32_t draining_ = 0;  // connections that are closed but for what their peer has not read
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;
  bool any_due_ = false;
  std::vector<uint64_t> doomed_;  // to be closed at the end of the round
};

}  // namespace ultraep

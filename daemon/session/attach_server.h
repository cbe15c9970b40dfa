// The session thread: accepts ranks and operators, forms groups, notices who is gone. Woken by the
// attach socket, by connections and by pidfds.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "daemon/options.h"
#include "daemon/session/group.h"
#include "daemon/session/plan_loop.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

class AttachServer {
 public:
  AttachServer(const DaemonOptions& options, Descriptor listener, PlanLoop* planner);
  ~AttachServer();

  // The body of the thread; returns after Stop, with every generation ended.
  void Run();
  void Stop();

 private:
  struct Connection;

  void Accept();
  void Watch(int fd, uint64_t id);
  void Receive(Connection* connection);
  // False: the connection is to be closed.
  bool Handle(Connection* connection, const Packet& packet);
  bool HandleJoin(Connection* connection, const Packet& packet);
  bool HandleStatus(Connection* connection);
  // Always false. retry: the reason may go away by itself.
  bool Refuse(Connection* connection, const std::string& text, bool retry = false);
  std::shared_ptr<Group> FindOrCreate(const GroupKey& key, const GroupConfig& config,
                                      std::string* wrong);
  void Close(uint64_t id);
  void LeaveGroup(Connection* connection, MemberState how);

  const DaemonOptions options_;
  Descriptor listener_, epoll_, stop_, spare_;
  PlanLoop* const planner_;
  const uint64_t started_ns_;
  uint64_t next_id_ = 2;  // 0 is the listener, 1 the stop event
  uint64_t refused_ = 0;
  uint64_t memory_bytes_ = 0;  // of all groups
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::map<GroupKey, std::shared_ptr<Group>> groups_;
};

}  // namespace ultraep

#include "daemon/session/attach_server.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "protocol/transport/waiting.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace ultraep {
namespace {

constexpr uint64_t kListener = 0, kStop = 1;
// How soon a connection that had something unread is looked at again.
constexpr int kDuePeriodMs = 5;
// A connection's pidfd has its id with this bit.
constexpr uint64_t kPidfdBit = uint64_t{1} << 63;

// Is something on its way that the peer has not read? A closed peer has nothing.
bool Unread(int socket) {
  int bytes = 0;
  return ioctl(socket, SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

}  // namespace

struct AttachServer::Connection {
  uint64_t id = 0;
  Descriptor socket;
  Descriptor pidfd;  // none from another PID namespace before Linux 6.5: the connection tells
  uid_t uid = 0;
  pid_t pid = 0;  // a label; 0 across PID namespaces
  bool greeted = false;
  // A generation that it is to be sent once it has read what it was sent before. The kernel counts
  // descriptors on their way against the daemon's user, so no connection has more than one Joined
  // unread, also while it is closed: what counts against its user is its connection. (An answer
  // would prove nothing: a peer can look at a message and leave it where it is.)
  std::shared_ptr<GroupGeneration> due;
  bool draining = false;
  std::shared_ptr<Group> group;
  uint32_t rank = 0;
};

AttachServer::AttachServer(const DaemonOptions& options, Descriptor listener, PlanLoop* planner)
    : options_(options),
      listener_(std::move(listener)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      spare_(open("/dev/null", O_RDONLY | O_CLOEXEC)),
      planner_(planner),
      groups_(options, planner),
      started_ns_(NowNs()) {
  Watch(listener_.get(), kListener);
  Watch(stop_.get(), kStop);
}

AttachServer::~AttachServer() = default;

void AttachServer::Watch(int fd, uint64_t id) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = id;
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
}

void AttachServer::Stop() {
  const uint64_t one = 1;
  if (write(stop_.get(), &one, sizeof one) < 0) return;
}

void AttachServer::Run() {
  const auto timeout_ms = [this] {
    if (any_due_) return kDuePeriodMs;
    return groups_.empty() && !draining_ ? -1 : int(kHeartbeatNs / 1'000'000);
  };
  while (Serve(timeout_ms())) {
  }
  groups_.EndAll();
}

bool AttachServer::Serve(int timeout_ms) {
  epoll_event events[64];
  const int count = epoll_wait(epoll_.get(), events, 64, timeout_ms);
  for (int i = 0; i < count; ++i) {
    const uint64_t id = events[i].data.u64;
    if (id == kStop) return false;
    if (id == kListener) {
      Accept();
    } else if (id & kPidfdBit) {
      Close(id & ~kPidfdBit);
    } else if (auto at = connections_.find(id); at != connections_.end()) {
      Receive(at->second.get());
    }
  }
  if (any_due_) SendDue();
  while (!doomed_.empty()) {
    const uint64_t id = doomed_.back();
    doomed_.pop_back();
    Close(id);
  }
  const uint64_t now = NowNs();
  if (now - leases_checked_ns_ < kHeartbeatNs) return true;
  CheckLeases(now);
  if (draining_) CloseDrained();
  return true;
}

void AttachServer::Accept() {
  const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) {
    if (errno != EMFILE && errno != ENFILE) return;
    // Out of descriptors: give up the spare one to turn the caller away instead of spinning on it.
    spare_.reset();
    Descriptor turned_away(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    turned_away.reset();
    spare_ = Descriptor(open("/dev/null", O_RDONLY | O_CLOEXEC));
    ++refused_;
    LogWarning("out of file descriptors: a connection was turned away; raise LimitNOFILE");
    return;
  }
  auto connection = std::make_unique<Connection>();
  connection->socket = Descriptor(fd);
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size)) return;
  connection->uid = credentials.uid;
  connection->pid = credentials.pid;
  if (RefuseTooMany(connection.get())) return;
  int pidfd = -1;
  size = sizeof pidfd;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size))  // before Linux 6.5
    pidfd = credentials.pid ? int(syscall(SYS_pidfd_open, credentials.pid, 0)) : -1;
  connection->pidfd = Descriptor(pidfd);
  connection->id = next_id_++;
  Watch(fd, connection->id);
  connections_[connection->id] = std::move(connection);
}

bool AttachServer::RefuseTooMany(Connection* connection) {
  uint64_t own = 0;
  for (const auto& [id, other] : connections_) own += other->uid == connection->uid;
  std::string wrong;
  if (connections_.size() >= options_.max_connections)
    wrong = "the daemon has " + std::to_string(connections_.size()) +
            " connections, --max_connections is " + std::to_string(options_.max_connections);
  else if (own >= options_.uid_connections)
    wrong = "uid " + std::to_string(connection->uid) + " has " + std::to_string(own) +
            " connections, --uid_connections is " + std::to_string(options_.uid_connections);
  if (!wrong.empty()) Refuse(connection, wrong, /*retry=*/true);
  return !wrong.empty();
}

void AttachServer::Receive(Connection* connection) {
  Packet packet;
  switch (ReceivePacket(connection->socket.get(), MSG_DONTWAIT, &packet, Descriptors::kRefuse)) {
    case ultraep::Receive::kNothingYet:
      return;
    case ultraep::Receive::kPacket:
      if (Handle(connection, packet)) return;
      break;
    case ultraep::Receive::kTooLong:
      Refuse(connection, "message longer than " + std::to_string(kMaxMessage) + " bytes");
      break;
    case ultraep::Receive::kDescriptorsLost:
      Refuse(connection, "the daemon takes no file descriptors");
      break;
    case ultraep::Receive::kClosed:
      break;
  }
  Close(connection->id);
}

bool AttachServer::Handle(Connection* connection, const Packet& packet) {
  if (std::string wrong = CheckHead(packet.bytes, packet.size); !wrong.empty())
    return Refuse(connection, wrong);
  Hello hello;
  if (As(packet.bytes, packet.size, &hello)) {
    connection->greeted = true;
    Welcome welcome;
    SetText(welcome.build, kBuildVersion);
    return SendMessage(connection->socket.get(), welcome, nullptr, 0, MSG_DONTWAIT);
  }
  if (!connection->greeted) return Refuse(connection, "the first message must be Hello");
  Ready ready;
  Leave leave;
  StatusRequest status;
  Join join;
  if (As(packet.bytes, packet.size, &ready)) return HandleReady(connection, ready);
  if (As(packet.bytes, packet.size, &status)) return HandleStatus(connection);
  if (As(packet.bytes, packet.size, &join)) return HandleJoin(connection, join);
  if (!As(packet.bytes, packet.size, &leave))
    return Refuse(connection, "unknown message of " + std::to_string(packet.size) + " bytes");
  LeaveGroup(connection, MemberState::kLeft);
  return true;
}

bool AttachServer::HandleReady(Connection* connection, const Ready& ready) {
  Group* group = connection->group.get();
  if (!group || !group->Ready(connection->id, connection->rank, ready.generation))
    return Refuse(connection, "Ready for a generation of which it is no member; join again",
                  /*retry=*/true);
  const GroupGeneration* now = group->generation().get();  // null: it came late
  if (now && now->gate().state == GateState::kOpen)
    LogInfo("group %s: all %d ranks ready, first planned step %d", group->key().name,
            group->config().ranks, now->gate().value);
  return true;
}

bool AttachServer::HandleJoin(Connection* connection, const Join& join) {
  if (connection->group &&
      (connection->rank != join.rank || connection->group->key().name != GetText(join.config.name)))
    return Refuse(connection, "this connection is rank " + std::to_string(connection->rank) +
                                  " of group " + connection->group->key().name +
                                  ", it cannot join as another one");
  Refusal refusal;
  std::shared_ptr<Group> group = groups_.Join(connection->id, connection->uid, join, &refusal);
  if (!group) return Refuse(connection, refusal);
  // Proven death closes the membership even when a forked child keeps the socket open.
  if (connection->pidfd && !connection->group)
    Watch(connection->pidfd.get(), connection->id | kPidfdBit);
  connection->group = group;
  connection->rank = join.rank;
  LogInfo("group %s: rank %d of %d joined (pid %d, uid %d)", group->key().name, join.rank,
          join.config.ranks, connection->pid, connection->uid);
  BeginGeneration(group);
  return true;
}

// When the last rank has joined. A generation that cannot be had is refused to all of them.
void AttachServer::BeginGeneration(const std::shared_ptr<Group>& group) {
  Refusal refusal;
  const bool began = groups_.Begin(group.get(), &refusal);
  if (!began && refusal.text.empty()) return;
  for (auto& [id, connection] : connections_) {
    if (connection->group != group || !group->Owns(id, connection->rank)) continue;
    if (began)
      connection->due = group->generation();
    else if (!Refuse(connection.get(), refusal))
      doomed_.push_back(id);
  }
  SendDue();
}

void AttachServer::SendDue() {
  any_due_ = false;
  for (auto& [id, connection] : connections_) {
    if (!connection->due) continue;
    if (Unread(connection->socket.get()))
      any_due_ = true;
    else if (!SendGeneration(connection.get()))
      doomed_.push_back(id);
  }
}

bool AttachServer::SendGeneration(Connection* connection) {
  const auto generation = std::exchange(connection->due, nullptr);
  if (generation->SendTo(connection->socket.get(), options_.lease_ns)) return true;
  const int why = errno;
  return Refuse(connection,
                "group " + connection->group->key().name +
                    ": the generation's memory cannot be passed to rank " +
                    std::to_string(connection->rank) + ": " + std::strerror(why) +
                    (why == ETOOMANYREFS ? "; raise the daemon's LimitNOFILE" : ""),
                /*retry=*/true);
}

void AttachServer::CheckLeases(uint64_t now) {
  leases_checked_ns_ = now;
  for (const Groups::Fenced& fenced : groups_.Fence(now)) {
    for (uint32_t rank : fenced.ranks)
      LogWarning("group %s: rank %d is fenced: no heartbeat for --lease_ms",
                 fenced.group->key().name, rank);
    TellOver(*fenced.group);
  }
}

void AttachServer::TellOver(const Group& group) {
  if (!group.generation()) return;
  Over over;
  over.generation = group.generation()->id();
  for (auto& [id, connection] : connections_)
    if (connection->group.get() == &group)
      SendMessage(connection->socket.get(), over, nullptr, 0, MSG_DONTWAIT);
}

bool AttachServer::HandleStatus(Connection* connection) {
  StatusDaemon daemon;
  SetText(daemon.build, kBuildVersion);
  daemon.pid = getpid();
  daemon.uptime_ns = NowNs() - started_ns_;
  daemon.connections = uint32_t(connections_.size());
  daemon.refused = refused_;
  daemon.spin_us = planner_->spin_ns() / 1000;
  // Users see their own groups; root and the daemon's own user see all.
  auto visible = [&](const GroupKey& key) {
    return connection->uid == 0 || connection->uid == geteuid() || connection->uid == key.uid;
  };
  for (auto& [key, group] : groups_.all()) daemon.groups += visible(key);
  const int socket = connection->socket.get();
  bool sent = SendMessage(socket, daemon, nullptr, 0, MSG_DONTWAIT);
  for (auto& [key, group] : groups_.all())
    if (sent && visible(key)) sent = SendMessage(socket, group->Status(), nullptr, 0, MSG_DONTWAIT);
  return sent && SendMessage(socket, StatusEnd(), nullptr, 0, MSG_DONTWAIT);
}

bool AttachServer::Refuse(Connection* connection, const std::string& text, bool retry) {
  ++refused_;
  LogWarning("refused pid %d uid %d: %s", connection->pid, connection->uid, text);
  Refused refused;
  refused.retry = retry;
  SetText(refused.text, text);
  SendMessage(connection->socket.get(), refused, nullptr, 0, MSG_DONTWAIT);
  return false;
}

bool AttachServer::Refuse(Connection* connection, const Refusal& refusal) {
  return Refuse(connection, refusal.text, refusal.retry);
}

void AttachServer::LeaveGroup(Connection* connection, MemberState how) {
  const std::shared_ptr<Group> group = std::move(connection->group);
  connection->group = nullptr;
  connection->due = nullptr;
  if (!group) return;
  LogInfo("group %s: rank %d %s", group->key().name, connection->rank,
          how == MemberState::kLeft ? "left" : "is gone");
  groups_.Gone(group, connection->id, connection->rank, how);
  TellOver(*group);
}

void AttachServer::Close(uint64_t id) {
  auto at = connections_.find(id);
  if (at == connections_.end() || at->second->draining) return;
  Connection& connection = *at->second;
  LeaveGroup(&connection, MemberState::kGone);
  if (!Unread(connection.socket.get())) {
    connections_.erase(at);
    return;
  }
  // Closing would not take back the descriptors on their way to a peer that keeps its end.
  shutdown(connection.socket.get(), SHUT_RDWR);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, connection.socket.get(), nullptr);
  connection.pidfd.reset();
  connection.draining = true;
  ++draining_;
}

void AttachServer::CloseDrained() {
  draining_ -= uint32_t(std::erase_if(connections_, [](const auto& at) {
    return at.second->draining && !Unread(at.second->socket.get());
  }));
}

}  // namespace ultraep

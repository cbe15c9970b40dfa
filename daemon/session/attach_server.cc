#include "daemon/session/attach_server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <optional>
#include <utility>

#include "daemon/session/connection.h"
#include "protocol/transport/waiting.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace ultraep {
namespace {

constexpr uint64_t kListener = 0, kStop = 1, kPing = 2;
// How soon a connection that had something unread is looked at again.
constexpr int kDuePeriodMs = 5;

}  // namespace

AttachServer::AttachServer(const DaemonOptions& options, Descriptor listener,
                           const NodeDevices& devices, PlanLoop* planner, NodeView* view)
    : options_(options),
      listener_(std::move(listener)),
      epoll_(epoll_create1(EPOLL_CLOEXEC)),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      ping_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      spare_(open("/dev/null", O_RDONLY | O_CLOEXEC)),
      devices_(devices),
      planner_(planner),
      view_(view),
      groups_(options, devices, planner, view),
      operators_(options, groups_, view),
      started_ns_(NowNs()) {
  Watch(listener_.get(), kListener);
  Watch(stop_.get(), kStop);
  Watch(ping_.get(), kPing);
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

void AttachServer::Ping() {
  const uint64_t one = 1;
  if (write(ping_.get(), &one, sizeof one) < 0) return;
}

void AttachServer::Run() {
  const auto timeout_ms = [this] {
    if (any_due_) return kDuePeriodMs;
    return groups_.empty() && !draining_ ? -1 : int(kHeartbeatNs / 1'000'000);
  };
  do {
    Publish();
    rounds_.fetch_add(1, std::memory_order_relaxed);
  } while (Serve(timeout_ms()));
  groups_.EndAll();
}

bool AttachServer::Serve(int timeout_ms) {
  epoll_event events[64];
  const int count = epoll_wait(epoll_.get(), events, 64, timeout_ms);
  for (int i = 0; i < count; ++i) {
    const uint64_t id = events[i].data.u64;
    if (id == kStop) return false;
    if (id == kPing) {
      uint64_t pings;
      if (read(ping_.get(), &pings, sizeof pings) < 0) continue;
    } else if (id == kListener) {
      Accept();
    } else if (id & kPidfdBit) {
      if (auto at = connections_.find(id & ~kPidfdBit); at != connections_.end())
        TakeLastWords(at->second.get());
      Close(id & ~kPidfdBit);
    } else if (auto at = connections_.find(id); at != connections_.end()) {
      Receive(at->second.get());
    }
  }
  if (any_due_) SendDue();
  const uint64_t now = NowNs();
  const bool due = now - leases_checked_ns_ >= kHeartbeatNs;
  if (due) CheckLeases(now);
  while (!doomed_.empty()) {
    const uint64_t id = doomed_.back();
    doomed_.pop_back();
    Close(id);
  }
  if (due && draining_) CloseDrained();
  operators_.Tidy(now);
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
    ++refused_[uint32_t(RefusalKind::kSystem)];
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
  if (!wrong.empty()) Refuse(connection, wrong, RefusalKind::kLimit, /*retry=*/true);
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
      Refuse(connection, "message longer than " + std::to_string(kMaxMessage) + " bytes",
             RefusalKind::kMessage);
      break;
    case ultraep::Receive::kDescriptorsLost:
      Refuse(connection, "the daemon takes no file descriptors", RefusalKind::kMessage);
      break;
    case ultraep::Receive::kClosed:
      TakeLastWords(connection);
      break;
  }
  Close(connection->id);
}

// Of a process that has ended: it may have left before, in a message that is still unread. The
// kernel tells of the end first, and also when the process has not read what it was sent.
void AttachServer::TakeLastWords(Connection* connection) {
  Packet packet;
  Leave leave;
  for (int i = 0; i < 8; ++i) {
    if (ReceivePacket(connection->socket.get(), MSG_DONTWAIT, &packet, Descriptors::kRefuse) !=
        ultraep::Receive::kPacket)
      return;
    if (As(packet.bytes, packet.size, &leave)) LeaveGroup(connection, MemberState::kLeft);
  }
}

bool AttachServer::Handle(Connection* connection, const Packet& packet) {
  if (std::string wrong = CheckHead(packet.bytes, packet.size); !wrong.empty())
    return Refuse(connection, wrong, RefusalKind::kMessage);
  Hello hello;
  if (As(packet.bytes, packet.size, &hello)) {
    connection->greeted = true;
    Welcome welcome;
    SetText(welcome.build, kBuildVersion);
    return SendMessage(connection->socket.get(), welcome, nullptr, 0, MSG_DONTWAIT);
  }
  if (!connection->greeted)
    return Refuse(connection, "the first message must be Hello", RefusalKind::kMessage);
  Ready ready;
  Leave leave;
  Refused refused;
  StatusRequest status;
  EventsRequest events;
  TraceRequest trace;
  Join join;
  if (As(packet.bytes, packet.size, &ready)) return HandleReady(connection, ready);
  const int socket = connection->socket.get();
  if (As(packet.bytes, packet.size, &status))
    return operators_.Status(socket, connection->uid, status, Daemon());
  if (As(packet.bytes, packet.size, &events))
    return operators_.Events(socket, connection->uid, events, &connection->asked);
  if (As(packet.bytes, packet.size, &trace)) return HandleTrace(connection, trace);
  if (As(packet.bytes, packet.size, &join)) return HandleJoin(connection, join);
  if (As(packet.bytes, packet.size, &refused)) return HandleRefusal(connection, refused);
  if (!As(packet.bytes, packet.size, &leave))
    return Refuse(connection, "unknown message of " + std::to_string(packet.size) + " bytes",
                  RefusalKind::kMessage);
  LeaveGroup(connection, MemberState::kLeft);
  return true;
}

StatusDaemon AttachServer::Daemon() const {
  StatusDaemon daemon;
  SetText(daemon.build, kBuildVersion);
  daemon.pid = getpid();
  daemon.uptime_ns = NowNs() - started_ns_;
  daemon.connections = uint32_t(connections_.size());
  daemon.spin_us = planner_->spin_ns() / 1000;
  std::copy(std::begin(refused_), std::end(refused_), daemon.refused);
  operators_.Fill(&daemon);
  const CudaState cuda = devices_.state();
  daemon.cuda = cuda.use;
  daemon.cuda_devices = cuda.devices;
  daemon.cuda_driver = cuda.driver_version;
  SetText(daemon.cuda_found, cuda.found);
  return daemon;
}

void AttachServer::Publish() {
  std::vector<GroupSource> groups;
  for (const auto& [key, group] : groups_.all()) groups.push_back(group->Source());
  view_->Publish(Daemon(), std::move(groups));
}

bool AttachServer::HandleTrace(Connection* connection, const TraceRequest& request) {
  const Refusal refusal =
      operators_.Trace(connection->socket.get(), connection->uid, request, &connection->asked);
  return refusal.text.empty() || Refuse(connection, refusal);
}

bool AttachServer::Refuse(Connection* connection, const std::string& text, RefusalKind kind,
                          bool retry) {
  ++refused_[uint32_t(kind)];
  LogWarning("refused pid %d uid %d: %s", connection->pid, connection->uid, text);
  view_->events().Add(connection->uid, connection->group ? connection->group->key().name : "",
                      EventKind::kRefused, [&](Event* event) {
                        event->value = uint64_t(connection->pid);
                        SetText(event->text, text);
                      });
  Refused refused;
  refused.retry = retry;
  SetText(refused.text, text);
  SendMessage(connection->socket.get(), refused, nullptr, 0, MSG_DONTWAIT);
  return false;
}

bool AttachServer::Refuse(Connection* connection, const Refusal& refusal) {
  return Refuse(connection, refusal.text, refusal.kind, refusal.retry);
}

void AttachServer::Close(uint64_t id) {
  auto at = connections_.find(id);
  if (at == connections_.end() || at->second->draining) return;
  Connection& connection = *at->second;
  LeaveGroup(&connection, MemberState::kGone);
  operators_.Close(&connection.asked);
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

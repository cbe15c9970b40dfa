#include "daemon/session/attach_server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
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
// A connection's pidfd has its id with this bit.
constexpr uint64_t kPidfdBit = uint64_t{1} << 63;

}  // namespace

struct AttachServer::Connection {
  uint64_t id = 0;
  Descriptor socket;
  Descriptor pidfd;  // none from another PID namespace before Linux 6.5: the connection tells
  uid_t uid = 0;
  pid_t pid = 0;  // a label; 0 across PID namespaces
  bool greeted = false;
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
  for (;;) {
    epoll_event events[64];
    const int count = epoll_wait(epoll_.get(), events, 64, -1);
    for (int i = 0; i < count; ++i) {
      const uint64_t id = events[i].data.u64;
      if (id == kStop) {
        // Ranks fall back at once instead of waiting for rows nobody collects.
        for (auto& [key, group] : groups_) group->End();
        return;
      }
      if (id == kListener) {
        Accept();
      } else if (id & kPidfdBit) {
        Close(id & ~kPidfdBit);
      } else if (auto at = connections_.find(id); at != connections_.end()) {
        Receive(at->second.get());
      }
    }
  }
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
  if (connections_.size() >= options_.max_connections) {
    Refuse(connection.get(),
           "the daemon has " + std::to_string(connections_.size()) +
               " connections, --max_connections is " + std::to_string(options_.max_connections),
           /*retry=*/true);
    return;
  }
  int pidfd = -1;
  size = sizeof pidfd;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size))  // before Linux 6.5
    pidfd = credentials.pid ? int(syscall(SYS_pidfd_open, credentials.pid, 0)) : -1;
  connection->pidfd = Descriptor(pidfd);
  connection->id = next_id_++;
  Watch(fd, connection->id);
  connections_[connection->id] = std::move(connection);
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
  if (As(packet.bytes, packet.size, &ready)) {
    if (!connection->group || ready.generation != connection->group->generation())
      return Refuse(connection, "Ready for a generation that was not joined");
    if (connection->group->Ready(connection->rank))
      LogInfo("group %s: all %d ranks ready, first planned step %d", connection->group->key().name,
              connection->group->layout().config.ranks,
              LoadGate(connection->group->boards().gate()).value);
    return true;
  }
  if (As(packet.bytes, packet.size, &leave)) {
    LeaveGroup(connection, MemberState::kLeft);
    return true;
  }
  if (As(packet.bytes, packet.size, &status)) return HandleStatus(connection);
  return HandleJoin(connection, packet);
}

bool AttachServer::HandleJoin(Connection* connection, const Packet& packet) {
  Join join;
  if (!As(packet.bytes, packet.size, &join))
    return Refuse(connection, "unknown message of " + std::to_string(packet.size) + " bytes");
  if (connection->group) return Refuse(connection, "this connection has joined a group already");
  std::string wrong = CheckConfig(join.config);
  if (wrong.empty() && join.rank >= join.config.ranks)
    wrong = "rank is " + std::to_string(join.rank) + ", must be below ranks (" +
            std::to_string(join.config.ranks) + ")";
  if (!wrong.empty()) return Refuse(connection, wrong);

  GroupKey key;
  key.uid = connection->uid;
  key.name = GetText(join.config.name);
  std::memcpy(key.nonce.data(), join.config.nonce, sizeof join.config.nonce);
  std::shared_ptr<Group> group = FindOrCreate(key, join.config, &wrong);
  if (!group) return Refuse(connection, wrong);
  wrong = group->Join(join);
  if (!wrong.empty()) return Refuse(connection, wrong);
  connection->group = group;
  connection->rank = join.rank;
  // Proven death closes the membership even when a forked child keeps the socket open.
  if (connection->pidfd) Watch(connection->pidfd.get(), connection->id | kPidfdBit);
  LogInfo("group %s: rank %d of %d joined (pid %d, uid %d)", key.name, join.rank, join.config.ranks,
          connection->pid, connection->uid);
  return group->SendSegments(connection->socket.get());
}

std::shared_ptr<Group> AttachServer::FindOrCreate(const GroupKey& key, const GroupConfig& config,
                                                  std::string* wrong) {
  if (auto at = groups_.find(key); at != groups_.end()) return at->second;
  const uint64_t bytes = GroupLayout(config).total_bytes();
  if (bytes > options_.memory_limit_bytes - memory_bytes_) {
    *wrong = "the group needs " + std::to_string(bytes >> 20) + " MiB of shared memory, " +
             std::to_string((options_.memory_limit_bytes - memory_bytes_) >> 20) +
             " MiB are left; lower slots or slot_sets, or raise --memory_limit_mib";
    return nullptr;
  }
  PlanOptions plan_options;
  plan_options.epsilon_ppm = options_.epsilon_ppm;
  std::shared_ptr<Group> group = Group::Create(key, config, plan_options, wrong);
  if (!group) return nullptr;
  memory_bytes_ += bytes;
  groups_[key] = group;
  planner_->Add(group);
  LogInfo("group %s: %d ranks, %d experts, %d slots per rank, %d MiB of shared memory", key.name,
          config.ranks, config.experts, config.slots, bytes >> 20);
  return group;
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
  for (auto& [key, group] : groups_) daemon.groups += visible(key);
  const int socket = connection->socket.get();
  bool sent = SendMessage(socket, daemon, nullptr, 0, MSG_DONTWAIT);
  for (auto& [key, group] : groups_)
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

void AttachServer::LeaveGroup(Connection* connection, MemberState how) {
  std::shared_ptr<Group> group = std::move(connection->group);
  connection->group = nullptr;
  if (!group) return;
  group->Gone(connection->rank, how);
  LogInfo("group %s: rank %d %s", group->key().name, connection->rank,
          how == MemberState::kLeft ? "left" : "is gone");
  if (!group->empty()) return;
  planner_->Remove(group.get());
  memory_bytes_ -= group->layout().total_bytes();
  groups_.erase(group->key());
  LogInfo("group %s: closed", group->key().name);
}

void AttachServer::Close(uint64_t id) {
  auto at = connections_.find(id);
  if (at == connections_.end()) return;
  LeaveGroup(at->second.get(), MemberState::kGone);
  connections_.erase(at);
}

}  // namespace ultraep

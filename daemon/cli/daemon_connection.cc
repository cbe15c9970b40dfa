#include "daemon/cli/daemon_connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/flags.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

constexpr uint64_t kMs = 1'000'000;

std::string WhyNoConnection(int error) {
  const std::string text = std::strerror(error);
  if (error == EACCES || error == EPERM)
    return text + "; `ultraepctl doctor` says whose socket it is";
  if (error == EAGAIN) return text + "; too many connect at once, try again";
  return text + "; is ultraepd running? Start it or give --socket";
}

}  // namespace

std::string SocketPath() {
  std::string path = absl::GetFlag(FLAGS_socket);
  if (path.empty() && std::getenv("ULTRAEP_SOCKET")) path = std::getenv("ULTRAEP_SOCKET");
  return path.empty() ? "/run/ultraep/ultraepd.sock" : path;
}

std::string DaemonConnection::Lost(const std::string& text) {
  Close();
  return text;
}

std::string DaemonConnection::Connect(const std::string& path, int timeout_ms) {
  timeout_ms_ = timeout_ms;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return absl::StrFormat("the path has %d bytes, must have 1..107", path.size());
  std::memcpy(address.sun_path, path.c_str(), path.size());
  socket_ = Descriptor(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  // A full backlog blocks connect(), and a full queue send(), for no longer than this.
  const timeval limit{timeout_ms / 1000, timeout_ms % 1000 * 1000};
  setsockopt(fd(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connect(fd(), reinterpret_cast<sockaddr*>(&address), sizeof address))
    return Lost(WhyNoConnection(errno));
  Hello hello;
  SetText(hello.build, kBuildVersion);
  if (std::string wrong = Send(hello); !wrong.empty()) return wrong;
  Welcome welcome;
  return Receive(&welcome);
}

std::string DaemonConnection::Receive(Packet* packet, Descriptors descriptors) {
  return Receive(packet, timeout_ms_, descriptors);
}

std::string DaemonConnection::Receive(Packet* packet, int timeout_ms, Descriptors descriptors) {
  pollfd wait{fd(), POLLIN, 0};
  if (!PollUntil(&wait, 1, DeadlineAfter(NowNs(), uint64_t(timeout_ms) * kMs)))
    return Lost(absl::StrFormat("the daemon has not answered for %d ms", timeout_ms));
  switch (ReceivePacket(fd(), MSG_DONTWAIT, packet, descriptors)) {
    case ultraep::Receive::kPacket:
      break;
    case ultraep::Receive::kDescriptorsLost:
      return Lost("the descriptors that came with the answer cannot be taken; raise `ulimit -n`");
    default:
      return Lost("the daemon closed the connection");
  }
  if (std::string wrong = CheckHead(packet->bytes, packet->size); !wrong.empty())
    return Lost(wrong);
  Refused refused;
  if (As(packet->bytes, packet->size, &refused)) return Lost(GetText(refused.text));
  return "";
}

std::string ReadStatus(DaemonConnection* connection, StatusDaemon* daemon,
                       std::vector<StatusGroup>* groups) {
  groups->clear();
  StatusRequest request;
  if (std::string wrong = connection->Send(request); !wrong.empty()) return wrong;
  if (std::string wrong = connection->Receive(daemon); !wrong.empty()) return wrong;
  for (;;) {
    Packet packet;
    StatusGroup group;
    StatusEnd end;
    if (std::string wrong = connection->Receive(&packet); !wrong.empty()) return wrong;
    if (As(packet.bytes, packet.size, &end)) {
      if (end.next <= request.first) return "";
      request.first = end.next;
      if (std::string wrong = connection->Send(request); !wrong.empty()) return wrong;
      if (std::string wrong = connection->Receive(daemon); !wrong.empty()) return wrong;
      continue;
    }
    if (!As(packet.bytes, packet.size, &group)) {
      connection->Close();
      return "the daemon gave an unexpected answer";
    }
    groups->push_back(group);
  }
}

}  // namespace ultraep

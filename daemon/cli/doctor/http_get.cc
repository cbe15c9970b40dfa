#include "daemon/cli/doctor/http_get.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "protocol/transport/seqpacket.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

constexpr size_t kMost = 64 << 10;

bool Poll(int socket, short events, uint64_t deadline_ns) {
  pollfd wait{socket, events, 0};
  return PollUntil(&wait, 1, deadline_ns);
}

}  // namespace

HttpAnswer HttpGet(uint16_t port, const std::string& path, uint64_t deadline_ns) {
  HttpAnswer answer;
  Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int error =
      connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) ? errno : 0;
  if (error == EINPROGRESS) {
    socklen_t size = sizeof error;
    error = ETIMEDOUT;
    if (Poll(socket.get(), POLLOUT, deadline_ns))
      getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  }
  if (error) return {std::strerror(error), 0, ""};
  const std::string request = "GET " + path + " HTTP/1.0\r\nHost: localhost\r\n\r\n";
  // A fresh connection takes these few bytes at once.
  if (send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) != ssize_t(request.size()))
    return {std::strerror(errno), 0, ""};
  std::string text;
  while (text.size() < kMost) {
    if (!Poll(socket.get(), POLLIN, deadline_ns)) return {"no answer in time", 0, ""};
    char part[4096];
    const ssize_t got = recv(socket.get(), part, sizeof part, 0);
    if (got < 0) return {std::strerror(errno), 0, ""};
    if (got == 0) break;
    text.append(part, size_t(got));
  }
  if (std::sscanf(text.c_str(), "HTTP/1.%*d %d", &answer.status) != 1)
    return {"the answer is not HTTP", 0, ""};
  const size_t head = text.find("\r\n\r\n");
  if (head != text.npos) answer.body = text.substr(head + 4);
  return answer;
}

}  // namespace ultraep

// One packet of the attach socket, with the descriptors that travel beside it.
#pragma once

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "protocol/message.h"

namespace ultraep {

// Owns a descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& o) noexcept {
    if (this != &o) {
      reset();
      fd_ = std::exchange(o.fd_, -1);
    }
    return *this;
  }
  ~Descriptor() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

struct Packet {
  unsigned char bytes[kMaxMessage];
  size_t size = 0;
  std::vector<Descriptor> descriptors;
};

enum class Receive { kPacket, kNothingYet, kClosed, kTooLong, kDescriptorsLost };
// A side that expects no descriptors must not take any: closing a stranger's may block.
enum class Descriptors { kTake, kRefuse };

// Receives one packet; received descriptors are close-on-exec. `flags`: MSG_DONTWAIT or 0.
// kDescriptorsLost: some came that were not wanted, or this process may not open more.
inline Receive ReceivePacket(int socket, int flags, Packet* packet,
                             Descriptors descriptors = Descriptors::kTake) {
  alignas(cmsghdr) unsigned char control[CMSG_SPACE(sizeof(int) * kMaxJoinedDescriptors)];
  iovec part{packet->bytes, sizeof packet->bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptors == Descriptors::kTake) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  ssize_t got;
  do {
    got = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  packet->descriptors.clear();
  if (got < 0)
    return errno == EAGAIN || errno == EWOULDBLOCK ? Receive::kNothingYet : Receive::kClosed;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      packet->descriptors.emplace_back(fd);
    }
  }
  packet->size = size_t(got);
  if (got == 0) return Receive::kClosed;
  if (message.msg_flags & MSG_TRUNC) return Receive::kTooLong;
  if (message.msg_flags & MSG_CTRUNC) return Receive::kDescriptorsLost;
  return Receive::kPacket;
}

// Sends one message; false with errno set when the peer is gone or its queue is full. `flags`:
// MSG_DONTWAIT or 0.
template <class T>
bool SendMessage(int socket, const T& m, const int* descriptors = nullptr, uint32_t count = 0,
                 int flags = 0) {
  alignas(cmsghdr) unsigned char control[CMSG_SPACE(sizeof(int) * kMaxJoinedDescriptors)] = {};
  iovec part{const_cast<T*>(&m), sizeof m};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (count) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    cmsghdr* c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    std::memcpy(CMSG_DATA(c), descriptors, sizeof(int) * count);
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, flags | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == ssize_t(sizeof m);
}

}  // namespace ultraep

// ultraepctl's side of the attach socket.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/operator_messages.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

// --socket, else $ULTRAEP_SOCKET, else where the daemon is by default.
std::string SocketPath();

// Texts are empty when all went well, else what went wrong and what to do about it.
class DaemonConnection {
 public:
  static constexpr int kAnswerMs = 5000;  // a daemon that zeroes memory for a group takes its time

  // Connects and says Hello. timeout_ms is for this and every later answer.
  std::string Connect(const std::string& path, int timeout_ms = kAnswerMs);
  void Close() { socket_.reset(); }

  bool connected() const { return bool(socket_); }
  int fd() const { return socket_.get(); }

  template <class T>
  std::string Send(const T& message) {
    if (SendMessage(socket_.get(), message)) return "";
    return Lost("the daemon closed the connection");
  }
  // The next packet; a Refused among them comes as text. What it returns an error after is closed.
  std::string Receive(Packet* packet, Descriptors descriptors = Descriptors::kRefuse);
  std::string Receive(Packet* packet, int timeout_ms,
                      Descriptors descriptors = Descriptors::kRefuse);
  // The next packet must be a T.
  template <class T>
  std::string Receive(T* message) {
    Packet packet;
    if (std::string wrong = Receive(&packet); !wrong.empty()) return wrong;
    if (As(packet.bytes, packet.size, message)) return "";
    return Lost("the daemon gave an unexpected answer");
  }

 private:
  std::string Lost(const std::string& text);

  Descriptor socket_;
  int timeout_ms_ = kAnswerMs;
};

// What the daemon says of itself and of the groups that this user may see.
std::string ReadStatus(DaemonConnection* connection, StatusDaemon* daemon,
                       std::vector<StatusGroup>* groups);

}  // namespace ultraep

// Events of the daemon, asked for over one connection.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/cli/daemon_connection.h"
#include "protocol/operator_messages.h"

namespace ultraep {

// Follows over restarts of the daemon: after a new connection it takes from the history that the
// daemon keeps what it has not seen yet.
class EventFeed {
 public:
  // verdicts: every planned step as well. history: also what the daemon knows of the time before.
  EventFeed(bool verdicts, bool history) : verdicts_(verdicts), history_(history) {}

  // To be called for every new connection.
  void Connected();
  // Appends what has happened since the last call; *more: there is more, call again at once. Empty,
  // or what went wrong.
  std::string Read(DaemonConnection* connection, std::vector<Event>* events, bool* more);
  // Events that were overwritten before they could be read, since the last call of this.
  uint64_t TakeMissed();

 private:
  const bool verdicts_, history_;
  uint32_t connections_ = 0;
  bool first_ = true;      // request of its connection
  uint64_t after_ns_ = 0;  // of this connection's events only those after it are new
  uint64_t last_ns_ = 0;
  uint64_t missed_ = 0;
};

}  // namespace ultraep

// A connection of the attach socket, as the session thread keeps it.
#pragma once

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>

#include "daemon/session/attach_server.h"
#include "daemon/session/group.h"
#include "daemon/session/operators.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

// A connection's pidfd has its id with this bit.
inline constexpr uint64_t kPidfdBit = uint64_t{1} << 63;

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
  uint32_t descriptors_unread = 0;  // that were sent and perhaps not read yet
  bool draining = false;
  std::shared_ptr<Group> group;
  uint32_t rank = 0;
  OperatorState asked;  // of ultraepctl
};

// Is something on its way that the peer has not read? A closed peer has nothing.
inline bool Unread(int socket) {
  int bytes = 0;
  return ioctl(socket, SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

}  // namespace ultraep

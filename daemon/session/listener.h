// The attach socket: one daemon per path.
#pragma once

#include <string>

#include "protocol/transport/seqpacket.h"

namespace ultraep {

// Owns the lock beside the socket and removes the socket at the end.
class Listener {
 public:
  ~Listener();
  // Empty on success, else why not and what to do. Takes a socket handed over by systemd
  // (LISTEN_FDS) if there is one, else locks PATH.lock and binds PATH.
  std::string Open(const std::string& path, uint32_t mode);
  Descriptor Take() { return std::move(socket_); }

 private:
  std::string Lock(const std::string& path);

  std::string bound_path_;
  Descriptor lock_, socket_;
};

}  // namespace ultraep

// Where metrics are served: the value of --metrics_listen.
#pragma once

#include <cstdint>
#include <string>

namespace ultraep {

struct ListenAddress {
  std::string host;   // IPv4; empty: nowhere
  uint32_t port = 0;  // 0: any free one

  bool off() const { return host.empty(); }
  bool loopback() const { return host.compare(0, 4, "127.") == 0; }
  std::string text() const { return host + ":" + std::to_string(port); }
};

// Empty when `text` is HOST:PORT or off, else what is wrong with it and the fix.
std::string ParseListenAddress(const std::string& text, ListenAddress* address);

}  // namespace ultraep

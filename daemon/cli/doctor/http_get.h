// One GET from a server on this machine, with a deadline.
#pragma once

#include <cstdint>
#include <string>

namespace ultraep {

struct HttpAnswer {
  std::string error;  // why there is no answer; empty: there is one
  int status = 0;     // as in 200
  std::string body;   // its first 64 KiB
};

HttpAnswer HttpGet(uint16_t port, const std::string& path, uint64_t deadline_ns);

}  // namespace ultraep

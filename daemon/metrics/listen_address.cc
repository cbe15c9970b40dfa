#include "daemon/metrics/listen_address.h"

#include <arpa/inet.h>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace ultraep {

// Strict: what comes out of here goes to the HTTP library, for which "80s" is TLS and "80" all
// interfaces.
std::string ParseListenAddress(const std::string& text, ListenAddress* address) {
  *address = {};
  if (text == "off") return "";
  const size_t colon = text.rfind(':');
  if (colon == text.npos) {
    uint32_t port = 0;
    if (absl::SimpleAtoi(text, &port))
      return "'" + text + "', which has no host: use 127.0.0.1:" + text + ", or 0.0.0.0:" + text +
             " for every interface";
    return "'" + text + "', must be HOST:PORT or off";
  }
  std::string host = text.substr(0, colon);
  const std::string port = text.substr(colon + 1);
  if (host == "localhost") host = "127.0.0.1";
  in_addr parsed;
  if (inet_pton(AF_INET, host.c_str(), &parsed) != 1)
    return "'" + text + "': its host must be an IPv4 address, as 127.0.0.1 or 0.0.0.0";
  if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != port.npos ||
      !absl::SimpleAtoi(port, &address->port) || address->port > 65535)
    return "'" + text + "': its port must be 0..65535, 0: any free one";
  address->host = host;
  return "";
}

}  // namespace ultraep

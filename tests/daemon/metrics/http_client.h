// Requests to an HTTP server of this process.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>

namespace ultraep::test {

inline int Connect(uint32_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(uint16_t(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

// Everything that comes back until the server closes.
inline std::string Ask(uint32_t port, const std::string& request) {
  const int fd = Connect(port);
  EXPECT_EQ(write(fd, request.data(), request.size()), ssize_t(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
    answer.append(buffer, size_t(got));
  close(fd);
  return answer;
}

inline std::string Get(uint32_t port, const std::string& path) {
  return Ask(port, "GET " + path + " HTTP/1.1\r\nHost: here\r\n\r\n");
}

inline bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != text.npos;
}

}  // namespace ultraep::test

#include "daemon/metrics/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace ultraep {
namespace {

int Connect(uint32_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(uint16_t(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

// Everything that comes back until the server closes.
std::string Ask(uint32_t port, const std::string& request) {
  const int fd = Connect(port);
  EXPECT_EQ(write(fd, request.data(), request.size()), ssize_t(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
    answer.append(buffer, size_t(got));
  close(fd);
  return answer;
}

std::string Get(uint32_t port, const std::string& path) {
  return Ask(port, "GET " + path + " HTTP/1.1\r\nHost: here\r\n\r\n");
}

bool Has(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

HttpAnswer Echo(const std::string& path) {
  if (path == "/no") return {503, "text/plain", "no\n"};
  return {200, "text/plain", "you said " + path + "\n"};
}

constexpr char kHost[] = "127.0.0.1";

TEST(HttpServerTest, ItAnswersManyAtOnceAndStartsAnewAfterAStop) {
  HttpServer server(Echo);
  EXPECT_EQ(server.port(), 0u);
  for (int life = 0; life < 2; ++life) {
    ASSERT_EQ(server.Start({kHost, 0}), "");
    ASSERT_NE(server.port(), 0u);
    std::atomic<int> right{0};
    {
      std::vector<std::jthread> clients;
      for (int c = 0; c < 8; ++c)
        clients.emplace_back([&, c] {
          for (int i = 0; i < 20; ++i) {
            const std::string path = "/" + std::to_string(c) + "/" + std::to_string(i);
            right += Has(Get(server.port(), path + "?query"), "\r\n\r\nyou said " + path + "\n");
          }
        });
    }
    EXPECT_EQ(right, 8 * 20);
    server.Stop();
    EXPECT_EQ(server.port(), 0u);
  }
}

TEST(HttpServerTest, MethodsAndAnswersAreWhatHttpWantsThemToBe) {
  HttpServer server(Echo);
  ASSERT_EQ(server.Start({kHost, 0}), "");
  EXPECT_TRUE(Has(Get(server.port(), "/no"), "HTTP/1.1 503 Service Unavailable\r\n"));
  const std::string head = Ask(server.port(), "HEAD /a HTTP/1.1\r\nHost: here\r\n\r\n");
  EXPECT_TRUE(Has(head, "Content-Length: 12\r\n")) << head;
  EXPECT_FALSE(Has(head, "you said")) << head;
  const std::string post =
      Ask(server.port(), "POST /a HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\nx");
  EXPECT_TRUE(Has(post, "HTTP/1.1 405 ")) << post;
  EXPECT_TRUE(Has(post, "Allow: GET, HEAD\r\n")) << post;
}

TEST(HttpServerTest, WhatIsNoRequestGetsNoAnswerAndHarmsNobody) {
  HttpServer server(Echo);
  ASSERT_EQ(server.Start({kHost, 0}), "");
  for (const std::string& garbage :
       {std::string("garbage\r\n\r\n"), std::string("\r\n\r\n"), std::string(64, '\0') + "\r\n\r\n",
        "GET /" + std::string(15'000, 'a') + " HTTP/1.1\r\nHost: " + std::string(15'000, 'b')}) {
    EXPECT_FALSE(Has(Ask(server.port(), garbage), "you said"));
    EXPECT_TRUE(Has(Get(server.port(), "/x"), "you said /x"));
  }
}

TEST(HttpServerTest, ATakenPortIsNamedWithItsReason) {
  HttpServer server(Echo), second(Echo);
  ASSERT_EQ(server.Start({kHost, 0}), "");
  const std::string wrong = second.Start({kHost, server.port()});
  EXPECT_TRUE(Has(wrong, std::to_string(server.port()))) << wrong;
  EXPECT_TRUE(Has(wrong, "Address already in use")) << wrong;
  EXPECT_EQ(second.port(), 0u);
  EXPECT_TRUE(Has(Get(server.port(), "/x"), "you said /x"));
}

TEST(HttpServerTest, AStopWaitsForNoClientThatSaysNothing) {
  HttpServer server(Echo);
  ASSERT_EQ(server.Start({kHost, 0}), "");
  std::vector<int> idle;
  for (int i = 0; i < 12; ++i) idle.push_back(Connect(server.port()));
  server.Stop();
  for (const int fd : idle) {
    char byte;
    EXPECT_LE(read(fd, &byte, 1), 0) << "it is closed";
    close(fd);
  }
}

}  // namespace
}  // namespace ultraep

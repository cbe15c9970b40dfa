#include "daemon/metrics/http_server.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/daemon/metrics/http_client.h"

namespace ultraep {
namespace {

using test::Ask;
using test::Connect;
using test::Get;
using test::Has;

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

// Each answer waits until the others are asked for as well.
TEST(HttpServerTest, EightAreAnsweredAtATime) {
  std::mutex mutex;
  std::condition_variable more;
  int inside = 0;
  HttpServer server([&](const std::string&) {
    std::unique_lock lock(mutex);
    ++inside;
    more.notify_all();
    const bool all = more.wait_for(lock, std::chrono::seconds(20), [&] { return inside == 8; });
    return HttpAnswer{200, "text/plain", all ? "together\n" : "alone\n"};
  });
  ASSERT_EQ(server.Start({kHost, 0}), "");
  std::atomic<int> together{0};
  {
    std::vector<std::jthread> clients;
    for (int c = 0; c < 8; ++c)
      clients.emplace_back([&] { together += Has(Get(server.port(), "/"), "together\n"); });
  }
  EXPECT_EQ(together, 8);
}

// The page is one file that loads nothing, from nowhere; nobody may frame it.
TEST(HttpServerTest, EveryAnswerForbidsBrowsersWhatThePageDoesNotNeed) {
  HttpServer server(Echo);
  ASSERT_EQ(server.Start({kHost, 0}), "");
  for (const std::string path : {"/x", "/no"}) {
    const std::string answer = Get(server.port(), path);
    const size_t at = answer.find("\r\nContent-Security-Policy: ");
    ASSERT_NE(at, answer.npos) << answer;
    const std::string policy = answer.substr(at + 2, answer.find("\r\n", at + 2) - at - 2);
    for (const char* rule : {" default-src 'none';", " connect-src 'self';", " base-uri 'none';",
                             " form-action 'none';", " frame-ancestors 'none'"})
      EXPECT_TRUE(Has(policy, rule)) << rule << " in " << policy;
    EXPECT_TRUE(Has(answer, "\r\nX-Content-Type-Options: nosniff\r\n")) << answer;
    EXPECT_TRUE(Has(answer, "\r\nCache-Control: no-store\r\n")) << answer;
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

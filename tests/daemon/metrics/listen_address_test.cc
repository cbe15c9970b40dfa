#include "daemon/metrics/listen_address.h"

#include <gtest/gtest.h>

#include <string>

namespace ultraep {
namespace {

TEST(ListenAddressTest, HostAndPortOrOff) {
  ListenAddress address;
  EXPECT_EQ(ParseListenAddress("127.0.0.1:9478", &address), "");
  EXPECT_EQ(address.text(), "127.0.0.1:9478");
  EXPECT_TRUE(address.loopback());
  EXPECT_EQ(ParseListenAddress("localhost:0", &address), "");
  EXPECT_EQ(address.text(), "127.0.0.1:0");
  EXPECT_EQ(ParseListenAddress("0.0.0.0:65535", &address), "");
  EXPECT_FALSE(address.loopback());
  EXPECT_FALSE(address.off());
  EXPECT_EQ(ParseListenAddress("off", &address), "");
  EXPECT_TRUE(address.off());
}

TEST(ListenAddressTest, ABarePortIsRefusedWithTheFix) {
  ListenAddress address;
  const std::string wrong = ParseListenAddress("9478", &address);
  EXPECT_NE(wrong.find("127.0.0.1:9478"), wrong.npos) << wrong;
  EXPECT_TRUE(address.off());
}

// The HTTP library would take some of them for TLS, redirects, or all interfaces.
TEST(ListenAddressTest, EverythingElseIsRefused) {
  for (const char* text :
       {"", "on", ":9478", "127.0.0.1:", "127.0.0.1:80s", "127.0.0.1:80r", "127.0.0.1:+80",
        "127.0.0.1:65536", "127.0.0.1:99999999999", "127.0.0.1:-1", "127.0.0.1: 80", "[::1]:9478",
        "127.0.0.1:1,0.0.0.0:2", "somewhere:9478", "127.0.0.1 :9478", "+9478"}) {
    ListenAddress address;
    EXPECT_NE(ParseListenAddress(text, &address), "") << text;
    EXPECT_TRUE(address.off()) << text;
  }
}

}  // namespace
}  // namespace ultraep

#include "daemon/log.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

// Names come from whoever connects.
TEST(LogTest, ALineStaysOneLineAndSpeaksToNoTerminal) {
  testing::internal::CaptureStderr();
  LogError("no group '%s'", "a\n2026 ultraepd error: forged \x1b[31m\x9b");
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_NE(line.find("'a\\x0a2026 ultraepd error: forged \\x1b[31m\\x9b'"), std::string::npos)
      << line;
}

}  // namespace
}  // namespace ultraep

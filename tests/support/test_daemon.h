// The daemon of a test, which fails when nobody can attach to it.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "tests/support/local_daemon.h"

namespace ultraep::test {

class TestDaemon : public LocalDaemon {
 public:
  explicit TestDaemon(const std::string& socket, DaemonOptions options = Defaults())
      : LocalDaemon(socket, options) {
    EXPECT_EQ(wrong(), "");
  }
};

}  // namespace ultraep::test

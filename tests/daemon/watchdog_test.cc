#include "daemon/watchdog.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "daemon/session/listener.h"
#include "daemon/systemd.h"
#include "tests/support/test_daemon.h"

namespace ultraep {
namespace {

// Takes systemd's place at the notify socket. The planner's thread runs when the test says so.
class WatchdogTest : public testing::Test {
 protected:
  void SetUp() override {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, (directory_.path() + "/notify").c_str());
    ASSERT_EQ(bind(systemd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
    setenv("WATCHDOG_USEC", "40000", 1);
    unsetenv("WATCHDOG_PID");
    ASSERT_EQ(listener_.Open(directory_.path() + "/sock", 0600), "");
    server_ = std::make_unique<AttachServer>(test::TestDaemon::Defaults(), listener_.Take(),
                                             devices_, &planner_, &view_);
  }
  void TearDown() override {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) unsetenv(name);
  }
  // All that was said since the last call.
  std::string Said() {
    std::string all;
    char text[512];
    for (;;) {
      const ssize_t got = recv(systemd_.get(), text, sizeof text, MSG_DONTWAIT);
      if (got < 0) return all;
      all += std::string(text, size_t(got)) + "|";
    }
  }
  bool SaysWatchdog(Watchdog* watchdog) {
    Said();
    watchdog->Look();  // asks for a round
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    watchdog->Look();
    return Said().find("WATCHDOG=1") != std::string::npos;
  }

  test::TemporaryDirectory directory_;
  Descriptor systemd_{socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  Waker waker_;
  NodeView view_;
  NodeDevices devices_;
  PlanLoop planner_{&waker_, 0};
  Listener listener_;
  std::unique_ptr<AttachServer> server_;
};

TEST_F(WatchdogTest, ItIsFedOnlyWhileThePlannerMakesProgress) {
  Watchdog watchdog(&planner_, server_.get(), &view_);
  EXPECT_FALSE(SaysWatchdog(&watchdog));
  std::thread thread([this] { planner_.Run(); });
  bool fed = false;
  for (int i = 0; i < 100 && !fed; ++i) fed = SaysWatchdog(&watchdog);
  planner_.Stop();
  thread.join();
  EXPECT_TRUE(fed);
  SaysWatchdog(&watchdog);  // its last rounds
  EXPECT_FALSE(SaysWatchdog(&watchdog));
}

TEST_F(WatchdogTest, ReadyAndStoppingAreSaidAndReadinessEndsWithStopping) {
  Watchdog watchdog(&planner_, server_.get(), &view_);
  watchdog.Ready();
  const std::string said = Said();
  EXPECT_NE(said.find("READY=1\n"), std::string::npos) << said;
  EXPECT_NE(said.find("STATUS=0 groups"), std::string::npos) << said;
  EXPECT_EQ(watchdog.Health(), "");
  EXPECT_EQ(watchdog.Readiness(), "");
  watchdog.Stopping();
  EXPECT_EQ(Said(), "STOPPING=1|");
  EXPECT_EQ(watchdog.Health(), "");
  EXPECT_NE(watchdog.Readiness(), "");
}

TEST_F(WatchdogTest, ReadyIsSaidAgainUntilItIsTaken) {
  const int size = 2048;  // a queue that takes little
  setsockopt(systemd_.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  Watchdog watchdog(&planner_, server_.get(), &view_);
  while (NotifySystemd("STATUS=full")) {
  }
  watchdog.Ready();
  EXPECT_EQ(Said().find("READY=1"), std::string::npos);
  watchdog.Look();
  EXPECT_NE(Said().find("READY=1"), std::string::npos);
  watchdog.Look();
  EXPECT_EQ(Said().find("READY=1"), std::string::npos);
}

TEST_F(WatchdogTest, BothThreadsAnswerWhenTheyAreAsked) {
  std::thread planner([this] { planner_.Run(); });
  std::thread session([this] { server_->Run(); });
  const uint64_t rounds[2] = {planner_.rounds(), server_->rounds()};
  for (int i = 0;
       i < 500 && (planner_.rounds() < rounds[0] + 3 || server_->rounds() < rounds[1] + 3); ++i) {
    planner_.Ping();
    server_->Ping();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_GE(planner_.rounds(), rounds[0] + 3);
  EXPECT_GE(server_->rounds(), rounds[1] + 3);
  server_->Stop();
  session.join();
  planner_.Stop();
  planner.join();
}

TEST_F(WatchdogTest, AWatchdogForAnotherProcessIsNotFed) {
  setenv("WATCHDOG_PID", "1", 1);
  Watchdog watchdog(&planner_, server_.get(), &view_);
  std::thread thread([this] { planner_.Run(); });
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(SaysWatchdog(&watchdog));
  planner_.Stop();
  thread.join();
}

TEST_F(WatchdogTest, WithoutSystemdNobodyIsToldAndNothingFails) {
  unsetenv("NOTIFY_SOCKET");
  Watchdog watchdog(&planner_, server_.get(), &view_);
  watchdog.Ready();
  watchdog.Stopping();
  EXPECT_EQ(Said(), "");
}

}  // namespace
}  // namespace ultraep

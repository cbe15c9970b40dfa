#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "protocol/transport/seqpacket.h"
#include "protocol/version.h"
#include "tests/daemon/cli/doctor/made_machine.h"

namespace ultraep {
namespace {

// Answers each connection to a port of loopback by the path that is asked for.
class Server {
 public:
  explicit Server(std::string (*answer)(const std::string& request)) : answer_(answer) {
    socket_ = Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(socket_.get(), 8), 0);
    getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~Server() {
    shutdown(socket_.get(), SHUT_RDWR);  // ends accept()
    thread_.join();
  }
  uint16_t port() const { return port_; }

 private:
  void Run() {
    for (;;) {
      const Descriptor peer(accept(socket_.get(), nullptr, nullptr));
      if (!peer) return;
      char request[1024] = {};
      if (recv(peer.get(), request, sizeof request - 1, 0) <= 0) continue;
      const std::string text = answer_(request);
      send(peer.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (text.empty()) recv(peer.get(), request, sizeof request, 0);  // until it gives up
    }
  }

  std::string (*const answer_)(const std::string&);
  Descriptor socket_;
  uint16_t port_ = 0;
  std::thread thread_;
};

bool Asks(const std::string& request, const char* path) {
  return request.rfind(std::string("GET ") + path + " ", 0) == 0;
}

class DoctorDaemonTest : public DoctorTest {
 protected:
  void AnswerWithMetrics(uint16_t port) {
    Answer();
    answer_.daemon.metrics_port = port;
  }
};

TEST_F(DoctorDaemonTest, MetricsThatAreThereAreFine) {
  Server server([](const std::string& request) -> std::string {
    return Asks(request, "/metrics") ? "HTTP/1.1 200 OK\r\n\r\nultraep_groups 1\n"
                                     : "HTTP/1.1 200 OK\r\n\r\nready\n";
  });
  AnswerWithMetrics(server.port());
  Expect(CheckMetrics, Level::kOk, "/metrics", "");
}

TEST_F(DoctorDaemonTest, MetricsThatAreOffOrUnknown) {
  Expect(CheckMetrics, Level::kNote, "not known", "");
  AnswerWithMetrics(0);
  Expect(CheckMetrics, Level::kNote, "exports none", "--metrics_listen");
}

TEST_F(DoctorDaemonTest, APortWithoutAServer) {
  uint16_t port;
  {
    Server server([](const std::string&) -> std::string { return "x"; });
    port = server.port();
  }
  AnswerWithMetrics(port);
  Expect(CheckMetrics, Level::kWarn, "refused", "--metrics_listen");
}

TEST_F(DoctorDaemonTest, APortOfAnotherProgram) {
  Server garbage([](const std::string&) -> std::string { return "220 mail ready\r\n"; });
  AnswerWithMetrics(garbage.port());
  Expect(CheckMetrics, Level::kWarn, "not HTTP", "");
  Server other([](const std::string&) -> std::string {
    return "HTTP/1.1 404 Not Found\r\n\r\nno such page";
  });
  AnswerWithMetrics(other.port());
  Expect(CheckMetrics, Level::kWarn, "status 404", "another program");
  Server stranger(
      [](const std::string&) -> std::string { return "HTTP/1.1 200 OK\r\n\r\nnode_load1 0.5\n"; });
  AnswerWithMetrics(stranger.port());
  Expect(CheckMetrics, Level::kWarn, "not ultraep's metrics", "another program");
}

TEST_F(DoctorDaemonTest, ADaemonThatIsNotReady) {
  Server server([](const std::string& request) -> std::string {
    return Asks(request, "/metrics") ? "HTTP/1.1 200 OK\r\n\r\nultraep_groups 1\n"
                                     : "HTTP/1.1 503 Busy\r\n\r\nplanner is \033stuck\n";
  });
  AnswerWithMetrics(server.port());
  Expect(CheckMetrics, Level::kWarn, "status 503 planner is ?stuck", "log");
}

TEST_F(DoctorDaemonTest, AServerThatNeverAnswersIsGivenUp) {
  Server server([](const std::string&) -> std::string { return ""; });
  AnswerWithMetrics(server.port());
  const Examined soon{machine_, answer_, DeadlineAfter(NowNs(), 50'000'000)};
  const std::vector<Finding> findings = CheckMetrics(soon);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].level, Level::kWarn);
  EXPECT_NE(findings[0].found.find("no answer in time"), std::string::npos) << findings[0].found;
}

TEST_F(DoctorDaemonTest, Refusals) {
  Expect(CheckRefusals, Level::kNote, "not known", "");
  Answer();
  Expect(CheckRefusals, Level::kOk, "none", "");
  answer_.daemon.refused[uint32_t(RefusalKind::kDisagree)] = 2;
  Expect(CheckRefusals, Level::kNote, "2 disagree", "ultraepctl events");
  answer_.daemon.refused[uint32_t(RefusalKind::kLimit)] = 1;
  Expect(CheckRefusals, Level::kWarn, "1 limit, 2 disagree", "ultraepctl events");
}

TEST_F(DoctorDaemonTest, VersionsAndWhyThereIsNoAnswer) {
  Answer();
  SetText(answer_.daemon.build, kBuildVersion);
  Expect(CheckDaemon, Level::kOk, "layout version", "");
  SetText(answer_.daemon.build, "0.0.1");
  Expect(CheckDaemon, Level::kWarn, "this is ultraepctl", "one release");
  answer_.error = "layout version 7 there, 6 here";
  Expect(CheckDaemon, Level::kFail, "7 there", "one release");
  answer_.error = "the daemon has not answered for 100 ms";
  Expect(CheckDaemon, Level::kFail, "100 ms", "log");
  answer_.error = "Permission denied; ...";
  Expect(CheckDaemon, Level::kFail, "Permission", "see socket");
  answer_.error = "Connection refused; ...";
  Expect(CheckDaemon, Level::kFail, "refused", "start ultraepd");
}

class DoctorSocketTest : public DoctorTest {
 protected:
  DoctorSocketTest() { answer_.path = machine_.root + "/s"; }

  void Bind(mode_t mode) {
    socket_ = Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, answer_.path.c_str());
    ASSERT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(chmod(answer_.path.c_str(), mode), 0);
  }

  Descriptor socket_;
};

TEST_F(DoctorSocketTest, NoSocket) {
  Expect(CheckSocket, Level::kFail, "No such file", "start ultraepd");
}

TEST_F(DoctorSocketTest, AFileInItsPlace) {
  Put("/s", "");
  Expect(CheckSocket, Level::kFail, "is not a socket", "--socket");
}

TEST_F(DoctorSocketTest, ModesAreSaid) {
  Bind(0660);
  Expect(CheckSocket, Level::kOk, "rw-rw----", "");
  chmod(answer_.path.c_str(), 0666);
  Expect(CheckSocket, Level::kNote, "every user", "");
}

TEST_F(DoctorSocketTest, ASocketOfOthers) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  Bind(0660);
  ASSERT_EQ(chown(answer_.path.c_str(), 0, 4242), 0);
  ASSERT_EQ(seteuid(65534), 0);
  Expect(CheckSocket, Level::kFail, "root:4242: not for", "usermod -aG 4242");
  ASSERT_EQ(seteuid(0), 0);
  ASSERT_EQ(chown(answer_.path.c_str(), 0, 0), 0);
  ASSERT_EQ(chmod(answer_.path.c_str(), 0600), 0);  // this process keeps its group
  ASSERT_EQ(seteuid(65534), 0);
  Expect(CheckSocket, Level::kFail, "root:root: not for", "chgrp");
  ASSERT_EQ(seteuid(0), 0);
  chmod(machine_.root.c_str(), 0700);
  ASSERT_EQ(seteuid(65534), 0);
  Expect(CheckSocket, Level::kFail, "Permission denied", "a+x");
  ASSERT_EQ(seteuid(0), 0);
}

}  // namespace
}  // namespace ultraep

// A real daemon inside this process: the same threads, socket and memory as ultraepd. For tests
// (test_daemon.h) and benchmarks.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "daemon/session/attach_server.h"
#include "daemon/session/listener.h"
#include "daemon/session/plan_loop.h"
#include "daemon/session/waker.h"

namespace ultraep::test {

// A directory that goes away with its owner.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    char name[] = "/tmp/ultraep-test-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~TemporaryDirectory() {
    const std::string command = "rm -rf '" + path_ + "'";
    if (std::system(command.c_str())) return;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class LocalDaemon {
 public:
  static DaemonOptions Defaults() {
    DaemonOptions options;
    options.socket_mode = 0600;
    options.spin_us = -1;
    options.memory_limit_bytes = options.uid_memory_limit_bytes = uint64_t{1} << 30;
    options.max_connections = options.uid_connections = 64;
    options.uid_groups = 8;
    options.lease_ns = 5'000'000'000;
    options.log_level = LogLevel::kError;
    return options;
  }

  explicit LocalDaemon(const std::string& socket, DaemonOptions options = Defaults()) {
    SetLogLevel(options.log_level);
    options.socket = socket;
    wrong_ = listener_.Open(socket, options.socket_mode);
    planner_ = std::make_unique<PlanLoop>(&waker_, options.spin_us);
    server_ =
        std::make_unique<AttachServer>(options, listener_.Take(), devices, planner_.get(), &view);
    waker_thread_ = std::thread([this] { waker_.Run(); });
    planner_thread_ = std::thread([this] { planner_->Run(); });
    session_thread_ = std::thread([this] { server_->Run(); });
  }
  ~LocalDaemon() {
    server_->Stop();
    session_thread_.join();
    planner_->Stop();
    planner_thread_.join();
    waker_.Stop();
    waker_thread_.join();
  }

  const std::string& wrong() const { return wrong_; }  // why nobody can attach

  NodeView view;
  NodeDevices devices;

 private:
  std::string wrong_;
  Listener listener_;
  Waker waker_;
  std::unique_ptr<PlanLoop> planner_;
  std::unique_ptr<AttachServer> server_;
  std::thread waker_thread_, planner_thread_, session_thread_;
};

}  // namespace ultraep::test

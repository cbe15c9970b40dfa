// A simulated ultraepd: the product's listener, session thread and planner thread. The waker thread is the
// world's pulse.
#pragma once

#include <memory>
#include <string>

#include "daemon/session/attach_server.h"
#include "daemon/session/listener.h"
#include "daemon/session/plan_loop.h"
#include "daemon/session/waker.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/world.h"

namespace ultraep::simulation {

class Daemon : public Process {
 public:
  enum { kSession, kPlanner };  // its threads

  Daemon(World* world, const Scenario& scenario, const std::string& socket, uint32_t incarnation)
      : Process("d#" + std::to_string(incarnation)), number(incarnation), planner_(&waker_, 0) {
    DaemonOptions options;
    options.socket = socket;
    options.socket_mode = 0600;
    options.spin_us = 0;
    options.memory_limit_bytes = options.uid_memory_limit_bytes = uint64_t{1} << 30;
    options.max_connections = options.uid_connections = 64;
    options.uid_groups = 8;
    options.lease_ns = scenario.lease_ns;
    options.log_level = LogLevel::kError;
    wrong = listener_.Open(socket, options.socket_mode);
    server_ =
        std::make_unique<AttachServer>(options, listener_.Take(), devices_, &planner_, &view_);
    world->Start(this, "session", [this] {
      server_->Run();
      planner_.Stop();
    });
    world->Start(this, "planner", [this] { planner_.Run(); });
  }

  // SIGTERM.
  void Stop() { server_->Stop(); }

  const uint32_t number;
  std::string wrong;  // why it cannot listen

 private:
  Listener listener_;
  Waker waker_;
  NodeView view_;
  PlanLoop planner_;
  NodeDevices devices_;
  std::unique_ptr<AttachServer> server_;
};

}  // namespace ultraep::simulation

// Is the daemon alive? Asks the planner for one more round now and then, and tells systemd (READY,
// STATUS, WATCHDOG, STOPPING) as long as it answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "daemon/session/attach_server.h"
#include "daemon/session/node_view.h"
#include "daemon/session/plan_loop.h"

namespace ultraep {

// The main thread's, but Health and Readiness: any thread.
class Watchdog {
 public:
  // Systemd is who set NOTIFY_SOCKET and, if it wants to be told, WATCHDOG_USEC; else nobody is
  // told.
  Watchdog(PlanLoop* planner, AttachServer* server, const NodeView* view);

  // How often Look wants to be called.
  uint64_t period_ns() const { return period_ns_; }
  // Served from now on.
  void Ready();
  void Look();
  void Stopping();

  // Empty, or why not. Healthy: steps are planned. Ready: and ranks are let in.
  std::string Health() const;
  std::string Readiness() const;

 private:
  // Of one thread: when it was last seen to make progress.
  struct Progress {
    uint64_t rounds = 0;
    std::atomic<uint64_t> seen_ns{0};

    void See(uint64_t rounds_now, uint64_t now);
  };

  PlanLoop* const planner_;
  AttachServer* const server_;
  const NodeView* const view_;
  uint64_t period_ns_;
  bool watched_ = false;
  bool ready_due_ = false;  // systemd has not taken it yet
  std::atomic<uint64_t> looked_ns_{0};
  std::atomic<bool> stopping_{false};
  Progress planning_, session_;
};

}  // namespace ultraep

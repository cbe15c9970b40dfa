// What the daemon shows over HTTP: /metrics for Prometheus, / for people, /status.json for the
// page, /healthz and /readyz for supervisors.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "daemon/metrics/collect.h"
#include "daemon/metrics/http_server.h"
#include "daemon/session/node_view.h"

namespace ultraep {

class MetricsServer {
 public:
  // What is wrong, in one line; empty: nothing. Any thread.
  using Check = std::function<std::string()>;

  // `view` lives longer.
  MetricsServer(const NodeView* view, uint64_t detail_series, Check healthy, Check ready);

  // Logs where it listens, or why it does not: the daemon plans without metrics as well.
  void Start(const ListenAddress& address);
  void Stop() { http_.Stop(); }
  uint32_t port() const { return http_.port(); }  // 0: off

 private:
  HttpAnswer Answer(const std::string& path);
  std::string Metrics();

  const NodeView* const view_;
  const bool detail_;
  const Check healthy_, ready_;
  std::mutex mutex_;  // guards collector_; scrapes come one after the other
  metrics::Collector collector_;
  HttpServer http_;  // last: its threads use the others
};

}  // namespace ultraep

#include "daemon/metrics/metrics_server.h"

#include <utility>
#include <vector>

#include "daemon/log.h"
#include "daemon/metrics/page_json.h"
#include "daemon/metrics/text.h"

namespace ultraep {

extern const char kStatusPage[];  // page.html

namespace {

HttpAnswer Checked(const std::string& wrong) {
  HttpAnswer answer;
  answer.status = wrong.empty() ? 200 : 503;
  answer.body = (wrong.empty() ? "ok" : wrong) + "\n";
  return answer;
}

}  // namespace

MetricsServer::MetricsServer(const NodeView* view, uint64_t detail_series, Check healthy,
                             Check ready)
    : view_(view),
      detail_(detail_series > 0),
      healthy_(std::move(healthy)),
      ready_(std::move(ready)),
      http_([this](const std::string& path) { return Answer(path); }) {}

void MetricsServer::Start(const ListenAddress& address) {
  if (address.off()) return;
  if (const std::string wrong = http_.Start(address); !wrong.empty()) {
    LogError(
        "no metrics: %s; choose another --metrics_listen HOST:PORT (port 0: any free one), or off",
        wrong);
    return;
  }
  LogInfo("metrics and status page: http://%s:%d/", address.host, port());
  if (!address.loopback())
    LogWarning(
        "--metrics_listen %s: whoever reaches it reads metrics and names of groups, without "
        "authentication or TLS; better 127.0.0.1 behind a reverse proxy",
        address.text());
}

HttpAnswer MetricsServer::Answer(const std::string& path) {
  if (path == "/metrics") return {200, "text/plain; version=0.0.4; charset=utf-8", Metrics()};
  if (path == "/") return {200, "text/html; charset=utf-8", kStatusPage};
  if (path == "/status.json")
    return {200, "application/json", metrics::PageJson(*view_, healthy_(), ready_())};
  if (path == "/healthz") return Checked(healthy_());
  if (path == "/readyz") return Checked(ready_());
  return {404, HttpAnswer().type, "not here; there are / /metrics /status.json /healthz /readyz\n"};
}

std::string MetricsServer::Metrics() {
  std::vector<prometheus::MetricFamily> families;
  {
    std::lock_guard lock(mutex_);
    families = collector_.Collect(view_->Read(detail_));
  }
  return metrics::MetricsText(families);
}

}  // namespace ultraep

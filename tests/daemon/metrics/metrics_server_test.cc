#include "daemon/metrics/metrics_server.h"

#include <gtest/gtest.h>

#include <mutex>
#include <string>

#include "tests/daemon/metrics/http_client.h"

namespace ultraep {
namespace {

using test::Get;
using test::Has;

class MetricsServerTest : public testing::Test {
 protected:
  MetricsServerTest() { server_.Start({"127.0.0.1", 0}); }
  std::string Answer(const std::string& path) { return Get(server_.port(), path); }

  std::string unhealthy_, unready_;  // set between requests only
  NodeView view_;
  MetricsServer server_{&view_, 0, [this] { return unhealthy_; }, [this] { return unready_; }};
};

TEST_F(MetricsServerTest, HealthAndReadinessAreTwoAnswers) {
  for (const bool healthy : {true, false})
    for (const bool ready : {true, false}) {
      unhealthy_ = healthy ? "" : "the planner stands still";
      unready_ = ready ? "" : "no rank is let in";
      const std::string health = Answer("/healthz"), readiness = Answer("/readyz");
      EXPECT_TRUE(Has(health, healthy ? "HTTP/1.1 200 " : "HTTP/1.1 503 ")) << health;
      EXPECT_TRUE(Has(health, "\r\n\r\n" + (healthy ? "ok" : unhealthy_) + "\n")) << health;
      EXPECT_TRUE(Has(readiness, ready ? "HTTP/1.1 200 " : "HTTP/1.1 503 ")) << readiness;
      EXPECT_TRUE(Has(readiness, "\r\n\r\n" + (ready ? "ok" : unready_) + "\n")) << readiness;
      const std::string page = Answer("/status.json");
      EXPECT_TRUE(Has(page, "\"health\":\"" + unhealthy_ + "\"")) << page;
      EXPECT_TRUE(Has(page, "\"readiness\":\"" + unready_ + "\"")) << page;
    }
}

TEST_F(MetricsServerTest, MetricsHaveBoundsThatPeopleCanRead) {
  const std::string metrics = Answer("/metrics");
  EXPECT_TRUE(Has(metrics, "\nultraep_solve_seconds_bucket{le=\"7.5e-05\"} 0\n")) << metrics;
}

}  // namespace
}  // namespace ultraep

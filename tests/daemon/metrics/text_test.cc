#include "daemon/metrics/text.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "daemon/metrics/families.h"

namespace ultraep::metrics {
namespace {

std::vector<std::string> Lines(const std::string& text, const std::string& start) {
  std::vector<std::string> lines;
  size_t at = 0;
  for (size_t end; (end = text.find('\n', at)) != text.npos; at = end + 1)
    if (text.compare(at, start.size(), start) == 0) lines.push_back(text.substr(at, end - at));
  return lines;
}

TEST(MetricsTextTest, EveryBoundReadsAsPeopleWriteIt) {
  const std::vector<std::string> bounds = {"1e-06",  "2e-06",  "5e-06",   "1e-05",  "2e-05",
                                           "3e-05",  "5e-05",  "7.5e-05", "0.0001", "0.00015",
                                           "0.0002", "0.0003", "0.0005",  "0.001",  "0.002",
                                           "0.005",  "0.01",   "0.1",     "+Inf"};
  Families families;
  LatencyHistogram latencies;
  for (const uint64_t bound : kLatencyBoundsNs) CountLatencyAlone(&latencies, bound);
  CountLatencyAlone(&latencies, 200'000'000);
  families.AddHistogram(kSolveSeconds, latencies);
  const std::string text = MetricsText(families.Take());
  const std::vector<std::string> lines = Lines(text, "ultraep_solve_seconds_bucket");
  ASSERT_EQ(lines.size(), bounds.size()) << text;
  for (size_t i = 0; i < bounds.size(); ++i)
    EXPECT_EQ(lines[i],
              "ultraep_solve_seconds_bucket{le=\"" + bounds[i] + "\"} " + std::to_string(i + 1));
  EXPECT_EQ(Lines(text, "ultraep_solve_seconds_count"),
            std::vector<std::string>{"ultraep_solve_seconds_count 19"});
}

TEST(MetricsTextTest, NothingElseIsChanged) {
  Families families;
  families.Add(kSlots, {"{le=\"1.00000\"}"}, 7.499999999999999e-05);
  const std::string text = MetricsText(families.Take());
  EXPECT_EQ(
      Lines(text, "ultraep_slots"),
      std::vector<std::string>{R"(ultraep_slots{group="{le=\"1.00000\"}"} 7.499999999999999e-05)"})
      << text;
}

}  // namespace
}  // namespace ultraep::metrics

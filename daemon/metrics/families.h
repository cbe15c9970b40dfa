// The families of one scrape, as prometheus-cpp's serializer takes them. Names of metrics and
// labels come from names.h alone.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "daemon/metrics/names.h"
#include "prometheus/metric_family.h"
#include "protocol/latency.h"

namespace ultraep::metrics {

// The names in Metric::labels: "group,stage=before|after" has group and stage.
std::vector<std::string> LabelNames(const Metric& metric);

class Families {
 public:
  Families();

  // One series; values of its labels in the order of Metric::labels.
  void Add(const Metric& metric, std::vector<std::string> labels, double value);
  void Add(const Metric& metric, double value) { Add(metric, {}, value); }
  void AddHistogram(const Metric& metric, const LatencyHistogram& latencies);

  // Those that have series, in the order of kAll.
  std::vector<prometheus::MetricFamily> Take();

 private:
  prometheus::MetricFamily* Of(const Metric& metric);

  std::vector<prometheus::MetricFamily> families_;  // one for each of kAll
};

}  // namespace ultraep::metrics

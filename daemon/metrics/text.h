// /metrics: families as text.
#pragma once

#include <string>
#include <vector>

#include "prometheus/metric_family.h"

namespace ultraep::metrics {

// Format 0.0.4. Bounds of buckets read as people write them.
std::string MetricsText(const std::vector<prometheus::MetricFamily>& families);

}  // namespace ultraep::metrics

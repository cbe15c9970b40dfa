// A reading of the node as Prometheus families. Nothing is counted for Prometheus on the way of a
// step: families are made when somebody asks, from what session and planner count anyway.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/metrics/families.h"
#include "daemon/metrics/group_series.h"
#include "daemon/session/node_view.h"

namespace ultraep::metrics {

// One thread at a time, snapshots in the order in which they were read. What it remembers from
// scrape to scrape are labels and the counters of labels that are shared or reused.
class Collector {
 public:
  std::vector<prometheus::MetricFamily> Collect(const NodeSnapshot& snapshot);

 private:
  GroupSeries groups_;
  uint64_t scrapes_ = 0;
};

}  // namespace ultraep::metrics

// The opt-in detail per layer and rank, within a budget of series.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "daemon/metrics/families.h"
#include "daemon/metrics/group_labels.h"
#include "daemon/session/node_view.h"

namespace ultraep::metrics {

// One thread at a time. Only for groups that are alone under their own name: layers of different
// models cannot be added. A metric of a group is there with all its series or with none, older
// groups first, imbalance of all groups before tokens per rank; what has no room is logged once.
class LayerDetail {
 public:
  // most_series: 0: off.
  explicit LayerDetail(uint64_t most_series) : most_series_(most_series) {}

  void Collect(const NodeSnapshot& snapshot, const GroupLabels& labels, Families* families);

 private:
  bool Fits(const Metric& metric, const std::string& group, uint64_t series);

  const uint64_t most_series_;
  uint64_t left_ = 0;           // of this scrape
  std::set<std::string> told_;  // metric and group, of what had no room
};

}  // namespace ultraep::metrics

// The series of each label of groups: counters over all that ever had it, gauges of those that
// live.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "daemon/metrics/families.h"
#include "daemon/metrics/group_labels.h"
#include "daemon/session/node_view.h"

namespace ultraep::metrics {

// One thread at a time. A label's counters never go down while the label is there: a name's are all
// that was counted under it, "other" counts what its members count while they are "other".
class GroupSeries {
 public:
  void Collect(const NodeSnapshot& snapshot, Families* families);
  const GroupLabels& labels() const { return labels_; }

 private:
  using Counts = std::vector<double>;  // one per counter, see the .cc
  void Count(const NodeSnapshot& snapshot);

  GroupLabels labels_;
  std::map<std::string, Counts> by_name_;  // as of the last scrape
  std::map<std::string, Counts> by_label_;
};

}  // namespace ultraep::metrics

// The opt-in detail per layer and rank; --metrics_detail_series bounds what groups keep of it.
#pragma once

#include "daemon/metrics/families.h"
#include "daemon/metrics/group_labels.h"
#include "daemon/session/node_view.h"

namespace ultraep::metrics {

// Only of groups that are alone under their own name: layers of different models cannot be added.
void CollectLayers(const NodeSnapshot& snapshot, const GroupLabels& labels, Families* families);

}  // namespace ultraep::metrics

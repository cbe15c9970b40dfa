// The data of the status page.
#pragma once

#include <string>

#include "daemon/session/node_view.h"

namespace ultraep::metrics {

// What `ultraepctl status --json` says, and: `time` of the reading (Unix seconds), the buckets of
// each group's latencies, whose differences are what came between two readings, with their bounds,
// and the last verdicts: `recent` all, `fallbacks` only those, the newest first.
std::string PageJson(const NodeView& view);

}  // namespace ultraep::metrics

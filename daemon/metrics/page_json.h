// The data of the status page.
#pragma once

#include <string>

#include "daemon/session/node_view.h"

namespace ultraep::metrics {

// What `ultraepctl status --json` says, and: `time` of the reading (Unix seconds); sums and buckets
// of each group, whose differences are what came between two readings, with the buckets' bounds;
// health and readiness, empty or what is wrong; the last verdicts, the newest first: `recent` all,
// `fallbacks` only those, which are kept longer.
std::string PageJson(const NodeView& view, const std::string& health, const std::string& readiness);

}  // namespace ultraep::metrics

// What the system says of this process: prometheus-cpp has no such metrics.
#pragma once

#include "daemon/metrics/families.h"

namespace ultraep::metrics {

// What /proc does not tell is left out.
void CollectProcess(Families* families);

}  // namespace ultraep::metrics

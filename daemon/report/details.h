// Single steps in full, for the report's drill-down: as many as the budget allows.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/report/gather.h"
#include "daemon/trace/convert.h"

namespace ultraep::report {

// `wanted` first (empty range: none), then the worst, then an even sample, until their text has
// `bytes`. *out: {"steps": {"<number>": {..}}, counts of each kind}. Empty when all went well.
std::string AddDetails(StepSource* source, const Gather& gather, trace::StepRange wanted,
                       uint64_t bytes, Json* out);

}  // namespace ultraep::report

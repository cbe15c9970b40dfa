// Our plans beside other planners', on the same steps.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/report/gather.h"

namespace ultraep::report {

// Up to `most` steps, evenly spaced. Empty when all went well.
std::string ComparePlanners(StepSource* source, uint64_t most, Json* out);

}  // namespace ultraep::report

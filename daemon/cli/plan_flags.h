// The flags of `ultraepctl plan` that say what is planned for and how.
#pragma once

#include <string>

#include "daemon/planner/plan_options.h"
#include "protocol/load.h"

namespace ultraep {

// Takes slots, domain size and options from the flags; ranks and experts of `shape` are given.
// Empty, or which flag is wrong and what is allowed.
std::string TakePlanFlags(PlanShape* shape, PlanOptions* options);

}  // namespace ultraep

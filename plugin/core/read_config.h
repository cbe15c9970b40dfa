// What the framework says of its group: checked, and as it travels.
#pragma once

#include "plugin/api/ultraep.h"
#include "plugin/core/result.h"
#include "protocol/group_config.h"

namespace ultraep {

// INVALID names the first value that cannot be, and what is allowed.
Result ReadConfig(const ultraep_group_config& config, GroupConfig* wire);

// What a group of that configuration takes; asked before a join.
ultraep_memory MemoryOf(const GroupConfig& config);

}  // namespace ultraep

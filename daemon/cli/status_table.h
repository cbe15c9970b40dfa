// The daemon's status for people: at most one screen for a group or two.
#pragma once

#include <string>
#include <vector>

#include "protocol/operator_messages.h"

namespace ultraep {

std::vector<std::string> StatusTable(const std::string& socket, const StatusDaemon& daemon,
                                     const std::vector<StatusGroup>& groups, bool colored);

// Are all groups planned: each gate open, all ranks ready?
bool AllPlanned(const std::vector<StatusGroup>& groups);

}  // namespace ultraep

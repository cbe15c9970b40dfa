// Words about a group that several commands use.
#pragma once

#include <string>

#include "protocol/operator_messages.h"

namespace ultraep {

// As in "rank 3 gone, ranks 5-7 absent"; empty when all are ready.
std::string NotReadyText(const StatusGroup& group);

}  // namespace ultraep

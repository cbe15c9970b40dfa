// An event as one line for people.
#pragma once

#include <string>

#include "protocol/operator_messages.h"

namespace ultraep {

// Without its time and group: "fallback  step 7, layer 3, microbatch 0: ...". Printable ASCII.
std::string EventText(const Event& event);
std::string EventLine(const Event& event, bool colored);

}  // namespace ultraep

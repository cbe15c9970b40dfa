// What happened, as `ultraepctl events --json` and the status page show it.
#pragma once

#include <cstdint>
#include <string>

#include "daemon/status_json.h"
#include "protocol/operator_messages.h"

namespace ultraep {

const char* EventName(uint16_t kind);
const char* ReasonName(uint16_t reason);  // as in the label of ultraep_steps_total
// A fallback's layer and microbatch are not known when no row of it was seen.
bool LayerKnown(const Event& event);
// Nobody wants to see it: a fallback, a rank lost, a refusal.
bool IsTrouble(const Event& event);

// As 2026-11-26T18:44:23.123Z. Nanoseconds of CLOCK_REALTIME.
std::string IsoTime(uint64_t time_ns);

// Only what events of this kind have.
Json EventJson(const Event& event);

}  // namespace ultraep

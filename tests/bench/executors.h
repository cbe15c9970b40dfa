// How fast this machine moves weights into slots and adds gradients, with the plugin's own
// executors and threads, beside plain copies of the same bytes in the same run.
#pragma once

#include <cstdint>

#include "nlohmann/json.hpp"

namespace ultraep::bench {

// {"weights": [...], "gradients": [...]}
nlohmann::ordered_json MeasureExecutors(uint64_t expert_bytes, uint32_t repeats);
void PrintExecutors(const nlohmann::ordered_json& measured, uint32_t repeats);

}  // namespace ultraep::bench

// Per-token expert ids out of a load row.
#pragma once

#include <cstdint>
#include <vector>

#include "plugin/examples/replay/random.h"

namespace ultraep::replay {

// Writes each expert e exactly row[e] times, in an order drawn from `random`.
void IdsOfRow(const uint32_t* row, uint32_t experts, Random random, std::vector<int32_t>* ids);

}  // namespace ultraep::replay

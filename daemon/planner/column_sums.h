// Tokens of every expert, summed over the source ranks: the one pass over the whole load matrix.
#pragma once

#include <cstdint>

#include "protocol/load.h"

namespace ultraep::planner {

// Which instructions to use. All give the same sums.
enum class Isa { kPortable, kAvx2 };

// The wider of them if this CPU has it.
Isa BestIsa();

// sums[e] = tokens of expert e over all rows of `load`.
void ColumnSums(LoadView load, uint64_t* sums, Isa isa);

}  // namespace ultraep::planner

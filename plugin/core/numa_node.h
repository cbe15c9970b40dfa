// Where a rank's memory should lie.
#pragma once

#include <cstdint>

namespace ultraep {

// The NUMA node of all CPUs that the calling thread may run on; -1: they are on several nodes, or
// the system does not say.
int32_t NodeOfAllowedCpus();

}  // namespace ultraep

// Nameless files in memory (memfd): no leftovers, no limit of /dev/shm, nothing to squat on.
#pragma once

#include <cstdint>

#include "protocol/transport/seqpacket.h"

namespace ultraep {

// Of that length, which can be sealed; none with errno set when it cannot be had. name: for
// /proc/PID/maps.
Descriptor MakeMemoryFile(const char* name, uint64_t bytes);

// Allocates and zeroes every page now, where ftruncate would succeed and fault later. False with
// errno set.
bool AllocateMemoryFile(int file, uint64_t bytes);

}  // namespace ultraep

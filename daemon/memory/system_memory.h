// What the machine has: the ground for limits that nobody has set.
#pragma once

#include <cstdint>

namespace ultraep {

struct SystemMemory {
  uint64_t total = 0;      // bytes
  uint64_t available = 0;  // that new segments could take without swapping
};

// From /proc/meminfo; a tebibyte of each where it cannot be read.
SystemMemory ReadSystemMemory();

}  // namespace ultraep

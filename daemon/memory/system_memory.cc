#include "daemon/memory/system_memory.h"

#include <cstdio>

namespace ultraep {

SystemMemory ReadSystemMemory() {
  SystemMemory memory{uint64_t{1} << 40, uint64_t{1} << 40};
  FILE* file = std::fopen("/proc/meminfo", "re");
  if (!file) return memory;
  char line[256];
  unsigned long long kib = 0;
  while (std::fgets(line, sizeof line, file)) {
    if (std::sscanf(line, "MemTotal: %llu kB", &kib) == 1) memory.total = kib * 1024;
    if (std::sscanf(line, "MemAvailable: %llu kB", &kib) == 1) memory.available = kib * 1024;
  }
  std::fclose(file);
  return memory;
}

}  // namespace ultraep

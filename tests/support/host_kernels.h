// The backend's kernels on the CPU, by name: what a driver without a device runs instead of a
// launch.
#pragma once

#include <cstdint>

namespace ultraep::test {

// `name` of kKernelTraits; false: there is no such kernel. arguments: its one struct. Runs block
// after block in the calling thread, which waits where a device would poll; all waits yield.
bool RunOnHost(const char* name, uint32_t blocks, const void* arguments);

}  // namespace ultraep::test

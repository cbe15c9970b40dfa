#include "tests/support/host_kernels.h"

#include <cstring>
#include <vector>

#include "kernels/team.h"
#include "tests/support/run_kernel.h"

namespace ultraep::test {

bool RunOnHost(const char* name, uint32_t blocks, const void* arguments) {
  for (uint32_t k = 0; k < uint32_t(Kernel::kKernels); ++k) {
    if (std::strcmp(name, kKernelTraits[k].name)) continue;
    // Every struct begins with the state.
    const auto& state = **static_cast<DeviceState* const*>(arguments);
    std::vector<uint32_t> scratch(state.experts);
    SerialTeam team(scratch.data());
    for (uint32_t b = 0; b < blocks; ++b) RunKernel(Kernel(k), team, {b, blocks}, arguments);
    return true;
  }
  return false;
}

}  // namespace ultraep::test

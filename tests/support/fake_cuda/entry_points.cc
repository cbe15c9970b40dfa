// How the backend finds all other entry points.
#include <cstring>

#include "kernels/cuda/driver.h"
#include "tests/support/fake_cuda/machine.h"

using ultraep::fake_cuda::Machine;

CUresult cuGetProcAddress(const char* name, void** function, int of_version, cuuint64_t flags,
                          CUdriverProcAddressQueryResult* status) {
  FAKE_CUDA_CALLED();
  *function = nullptr;
  *status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  if (flags != CU_GET_PROC_ADDRESS_LEGACY_STREAM) return CUDA_ERROR_INVALID_VALUE;
  if (Machine::Get().Lacks(name)) return CUDA_ERROR_NOT_FOUND;
#define FIND(known, since)                                \
  if (std::strcmp(name, #known) == 0) {                   \
    *status = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT; \
    if (of_version < since) return CUDA_ERROR_NOT_FOUND;  \
    *status = CU_GET_PROC_ADDRESS_SUCCESS;                \
    *function = reinterpret_cast<void*>(&::known);        \
    return CUDA_SUCCESS;                                  \
  }
  ULTRAEP_DRIVER_FUNCTIONS(FIND)
#undef FIND
  return CUDA_ERROR_NOT_FOUND;
}

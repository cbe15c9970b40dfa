// Entry points about kernels, which run on the CPU, and about copies.
#include <cstring>

#include "kernels/device/kernel_list.h"
#include "tests/support/fake_cuda/fake_cuda.h"
#include "tests/support/fake_cuda/queues.h"
#include "tests/support/host_kernels.h"

using namespace ultraep;
using namespace ultraep::fake_cuda;

namespace {

// What a test runs instead of a kernel, by name.
using Stub = void (*)(uint32_t blocks, const void* argument);
std::mutex stubs_mutex;
std::map<std::string, Stub>& Stubs() {
  static auto* const stubs = new std::map<std::string, Stub>;
  return *stubs;
}

// By kernel, in the order of the list.
constexpr uint64_t kArgumentBytes[] = {
    sizeof(CountArguments),     sizeof(CountArguments),     sizeof(CountArguments),
    sizeof(AwaitArguments),     sizeof(OperationArguments), sizeof(StreamArguments),
    sizeof(StreamArguments),    sizeof(OperationArguments), sizeof(SignalArguments),
    sizeof(OperationArguments), sizeof(OperationArguments), sizeof(RouteArguments),
    sizeof(RouteMapArguments),  sizeof(PrepareArguments),   sizeof(OperationArguments),
    sizeof(ReduceArguments),    sizeof(OperationArguments)};
static_assert(std::size(kArgumentBytes) == uint32_t(Kernel::kKernels));

// The largest shared memory that a block may ask for on every architecture that is built for.

}  // namespace

void fake_cuda_kernel(const char* name, Stub stub) {
  std::lock_guard lock(stubs_mutex);
  Stubs()[name] = stub;
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  FAKE_CUDA_CONTEXT(context);
  if (const CUresult result = MayBlock(); result != CUDA_SUCCESS) return result;
  if (!image) return CUDA_ERROR_INVALID_VALUE;
  if (Machine::Get().Lacks("code")) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  *module = new CUmod_st{context};
  Machine::Get().Count("modules", 1);
  return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module) {
  FAKE_CUDA_CONTEXT(context);
  if (module->context != context) return CUDA_ERROR_INVALID_HANDLE;
  delete module;
  Machine::Get().Count("modules", -1);
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  FAKE_CUDA_CONTEXT(context);
  if (module->context != context) return CUDA_ERROR_INVALID_HANDLE;
  for (uint32_t k = 0; k < uint32_t(Kernel::kKernels); ++k) {
    if (std::strcmp(name, kKernelTraits[k].name) != 0) continue;
    static std::mutex mutex;
    static auto* const made = new std::map<std::pair<CUcontext, uint32_t>, CUfunc_st>;
    std::lock_guard lock(mutex);
    *function = &made->emplace(std::pair{context, k}, CUfunc_st{context, k}).first->second;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

CUresult cuFuncLoad(CUfunction function) {
  FAKE_CUDA_CALLED();
  function->loaded = true;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  FAKE_CUDA_CALLED();
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES ||
      value > Machine::Get().MostSharedBytes())
    return CUDA_ERROR_INVALID_VALUE;
  function->dynamic_shared = value;
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned int x, unsigned int y, unsigned int z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z,
                        unsigned int shared, CUstream handle, void** parameters, void** extra) {
  FAKE_CUDA_CONTEXT(context);
  const CUstream stream = FindStream(context, handle);
  if (!stream || function->context != context) return CUDA_ERROR_INVALID_HANDLE;
  if (x == 0 || y != 1 || z != 1 || block_y != 1 || block_z != 1 || extra ||
      int(shared) > function->dynamic_shared)
    return CUDA_ERROR_INVALID_VALUE;
  // Loading at a launch may wait for kernels that wait for this one: here always an error.
  if (!function->loaded) return CUDA_ERROR_LAUNCH_FAILED;
  const uint32_t kernel = function->kernel;
  const char* const name = kKernelTraits[kernel].name;
  if (block_x != kKernelTraits[kernel].threads) return CUDA_ERROR_INVALID_VALUE;
  Stub stub = nullptr;
  {
    std::lock_guard lock(stubs_mutex);
    if (const auto found = Stubs().find(name); found != Stubs().end()) stub = found->second;
  }
  const auto* const from = static_cast<const char*>(parameters[0]);
  return Issue(stream, [=, argument = std::vector<char>(from, from + kArgumentBytes[kernel])] {
    if (stub)
      stub(x, argument.data());
    else
      test::RunOnHost(name, x, argument.data());
  });
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads,
                                                     size_t shared) {
  FAKE_CUDA_CONTEXT(context);
  if (function->context != context || threads <= 0) return CUDA_ERROR_INVALID_VALUE;
  const int by_shared = (Machine::Get().MostSharedBytes() + 1024) / int(shared + 1024);
  *blocks = std::min(2048 / threads, by_shared);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
  FAKE_CUDA_CONTEXT(context);
  const CUstream stream = FindStream(context, handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  return Issue(stream, [=] {
    std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  });
}

CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char value, size_t bytes, CUstream handle) {
  FAKE_CUDA_CONTEXT(context);
  const CUstream stream = FindStream(context, handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  return Issue(stream, [=] { std::memset(reinterpret_cast<void*>(at), value, bytes); });
}

#include "kernels/cuda/kernel_code.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "protocol/limits.h"

// From the build: the code of each file of kernels for all architectures, null behind the last.
extern "C" __attribute__((visibility("hidden"))) const void* const ultraep_images[];

namespace ultraep {

const char* KernelCode::Architectures() { return ULTRAEP_ARCHITECTURES; }

bool KernelCode::BuiltFor(uint32_t architecture) {
  char name[16];
  std::snprintf(name, sizeof(name), "sm_%ua", architecture);
  for (std::string_view rest = Architectures(); !rest.empty();) {
    const std::string_view next = rest.substr(0, rest.find(' '));
    if (next == name) return true;
    rest.remove_prefix(next.size() + (next.size() < rest.size() ? 1 : 0));
  }
  return false;
}

uint32_t KernelCode::SharedBytes(Kernel kernel, uint32_t experts) const {
  const KernelTraits& traits = kKernelTraits[uint32_t(kernel)];
  const uint32_t shared = traits.shared_bytes + traits.shared_per_expert * experts;
  return kernel == Kernel::kStreamBulk ? std::min(shared, most_shared_) : shared;
}

bool KernelCode::Load(const Driver& driver, uint32_t architecture, uint32_t most_shared,
                      BackendText* wrong) {
  most_shared_ = most_shared;
  bool fine = LoadImages(driver, architecture, wrong);
  for (uint32_t k = 0; fine && k < uint32_t(Kernel::kKernels); ++k)
    fine = FindKernel(driver, k, wrong);
  if (!fine) Unload(driver);
  return fine;
}

bool KernelCode::LoadImages(const Driver& driver, uint32_t architecture, BackendText* wrong) {
  const auto built = [&] {
    return Say(wrong, "the kernels are built for %s, the device is sm_%u: build for it as well",
               Architectures(), architecture),
           false;
  };
  if (!BuiltFor(architecture)) return built();
  for (uint32_t i = 0; ultraep_images[i] && i < kMaxImages; ++i) {
    const CUresult result = driver.cuModuleLoadData(&modules_[i], ultraep_images[i]);
#if !ULTRAEP_HAS_DEVICE_CODE
    if (result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_INVALID_IMAGE ||
        result == CUDA_ERROR_INVALID_PTX)  // a text may pass for PTX
      return Say(wrong, "this build of the backend holds no device code: build with nvcc"), false;
#endif
    if (result == CUDA_ERROR_NO_BINARY_FOR_GPU) return built();
    if (!driver.Check(result, wrong, "loading the kernels")) return false;
    module_count_ = i + 1;
  }
  return true;
}

bool KernelCode::FindKernel(const Driver& driver, uint32_t kernel, BackendText* wrong) {
  const char* const name = kKernelTraits[kernel].name;
  CUresult result = CUDA_ERROR_NOT_FOUND;
  for (uint32_t i = 0; i < module_count_ && result == CUDA_ERROR_NOT_FOUND; ++i)
    result = driver.cuModuleGetFunction(&functions_[kernel], modules_[i], name);
  if (!driver.Check(result, wrong, "finding the kernel %s", name)) return false;
  // With CUDA_MODULE_LOADING=LAZY the code would come at the first launch, which waits for kernels
  // that are running, and those may poll for what that launch sends.
  if (!driver.Check(driver.cuFuncLoad(functions_[kernel]), wrong, "loading the kernel %s", name))
    return false;
  const uint32_t shared = SharedBytes(Kernel(kernel), kMaxExperts);
  return driver.Check(
      driver.cuFuncSetAttribute(functions_[kernel], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                int(shared)),
      wrong, "%u bytes of shared memory for the kernel %s", shared, name);
}

void KernelCode::Unload(const Driver& driver) {
  while (module_count_ > 0) driver.cuModuleUnload(modules_[--module_count_]);
}

}  // namespace ultraep

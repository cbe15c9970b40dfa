// The kernels of one device: the embedded code loaded into its context, every kernel found and
// ready to run, so that no launch loads anything.
#pragma once

#include "kernels/cuda/driver.h"
#include "kernels/device/kernel_list.h"

namespace ultraep {

class KernelCode {
 public:
  // "sm_90a sm_100a": what the embedded code was built for.
  static const char* Architectures();
  // architecture: 10 x major + minor. Code for one with an `a` runs there and nowhere else.
  static bool BuiltFor(uint32_t architecture);

  // In the current context, which is of a device of that architecture, whose blocks may have
  // `most_shared` bytes of shared memory.
  bool Load(const Driver& driver, uint32_t architecture, uint32_t most_shared, BackendText* wrong);
  CUfunction function(Kernel kernel) const { return functions_[uint32_t(kernel)]; }
  // Of a launch.
  uint32_t SharedBytes(Kernel kernel, uint32_t experts) const;

 private:
  bool LoadImages(const Driver& driver, uint32_t architecture, BackendText* wrong);
  bool FindKernel(const Driver& driver, uint32_t kernel, BackendText* wrong);
  void Unload(const Driver& driver);

  static constexpr uint32_t kMaxImages = 16;
  CUmodule modules_[kMaxImages] = {};
  uint32_t module_count_ = 0;
  uint32_t most_shared_ = 0;
  CUfunction functions_[uint32_t(Kernel::kKernels)] = {};
};

}  // namespace ultraep

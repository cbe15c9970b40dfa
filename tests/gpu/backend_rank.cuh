// A rank of the CUDA backend without its daemon: state, plans and mailbox where the backend has
// them, and its kernels on one stream.
#pragma once

#include <memory>
#include <vector>

#include "kernels/device/kernel_list.h"
#include "tests/gpu/device.cuh"
#include "tests/kernels/device/device_rank.h"

namespace ultraep::gpu {

// The entry point, for cudaLaunchKernel.
const void* EntryOf(Kernel kernel);

class BackendRank {
 public:
  BackendRank(const GroupConfig& config, uint32_t rank, uint32_t plans, cudaStream_t stream);
  BackendRank(const BackendRank&) = delete;
  BackendRank& operator=(const BackendRank&) = delete;
  ~BackendRank() { cudaFreeHost(pinned_); }

  DeviceState* state() const { return reinterpret_cast<DeviceState*>(state_.data()); }
  DevicePlan* plan(uint32_t i) const { return reinterpret_cast<DevicePlan*>(plans_[i].data()); }
  MailboxView mailbox() const { return {pinned_, layout_}; }
  cudaStream_t stream() const { return stream_; }
  void Verdict(const std::vector<unsigned char>& image) const;
  void Memory(uint32_t index, uint64_t generation, unsigned char* const* bases) const;

  template <class Arguments>
  void Launch(Kernel kernel, uint32_t blocks, const Arguments& arguments) const {
    const KernelTraits& traits = kKernelTraits[uint32_t(kernel)];
    void* all[] = {const_cast<Arguments*>(&arguments)};
    ULTRAEP_CUDA(cudaLaunchKernel(EntryOf(kernel), blocks, traits.threads, all,
                                  traits.shared_bytes + traits.shared_per_expert * experts_,
                                  stream_));
  }
  void Operate(Kernel kernel, uint32_t plan_index, uint32_t set = 0) const {
    Launch(kernel, 1, OperationArguments{state(), plan(plan_index), set, UINT32_MAX, 0, 0});
  }
  // What its failure note says, or empty.
  std::string Failure() const;

 private:
  const uint32_t experts_;
  const MailboxLayout layout_;
  const cudaStream_t stream_;
  DeviceBytes state_;
  std::vector<DeviceBytes> plans_;
  unsigned char* pinned_ = nullptr;
};

}  // namespace ultraep::gpu

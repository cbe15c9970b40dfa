// The devices of this machine, and which of them this process uses.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/cuda/driver.h"
#include "kernels/cuda/kernel_code.h"
#include "kernels/cuda/nvml.h"
#include "protocol/device_backend.h"

namespace ultraep {

struct Device {
  CUdevice handle = 0;
  DeviceInfo info;  // what never changes
  uint32_t block_shared_bytes = 0;  // that a block may ask for
  // Null until this process uses the device; the two below are set before.
  std::atomic<CUcontext> context{nullptr};
  KernelCode code;
  CUstream own_stream = nullptr;  // of copies that somebody waits for
};

class Devices {
 public:
  Devices(const Driver& driver, const Nvml& nvml) : driver_(driver), nvml_(nvml) {}

  bool Open(BackendText* wrong);
  uint32_t count() const { return uint32_t(devices_.size()); }
  // Null with text: no such device.
  const Device* Find(uint32_t device, BackendText* wrong) const;
  // Null with text also while it is not in use.
  const Device* FindUsed(uint32_t device, BackendText* wrong) const;
  // The number of a driver's device; -1: none of them.
  int32_t Number(CUdevice handle) const;

  bool Describe(uint32_t device, DeviceInfo* info, BackendText* wrong) const;
  bool CanReach(uint32_t device, uint32_t peer) const;
  bool Use(uint32_t device, BackendText* wrong);
  // By the context when there is one, else by NVML. 0: unknown.
  uint64_t FreeBytes(const Device& device) const;

 private:
  bool Read(int ordinal, Device* device, BackendText* wrong) const;
  bool Prepare(Device* device, CUcontext context, BackendText* wrong) const;
  uint64_t FreeInContext(const Device& device) const;

  const Driver& driver_;
  const Nvml& nvml_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::mutex use_mutex_;
};

// How memory is made that other processes map; `fabric`: on other machines as well.
CUmemAllocationProp SharedMemoryOf(CUdevice device, bool fabric);

}  // namespace ultraep

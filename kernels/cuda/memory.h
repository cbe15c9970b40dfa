// Device memory: that which other processes map (VMM), this process's own, and pinned host memory.
#pragma once

#include "kernels/cuda/devices.h"

namespace ultraep {

class Memory {
 public:
  Memory(const Driver& driver, const Devices& devices) : driver_(driver), devices_(devices) {}

  bool Create(uint32_t device, uint64_t bytes, bool fabric, uint64_t* handle,
              BackendText* wrong) const;
  bool ExportDescriptor(uint64_t handle, int* fd, BackendText* wrong) const;
  bool ExportFabric(uint64_t handle, FabricHandle* out, BackendText* wrong) const;
  bool ImportDescriptor(int fd, uint64_t* handle, BackendText* wrong) const;
  bool ImportFabric(const FabricHandle& from, uint64_t* handle, BackendText* wrong) const;
  bool Map(uint32_t device, uint64_t handle, uint64_t bytes, void** at, BackendText* wrong) const;
  void Unmap(void* at, uint64_t bytes) const;
  void Release(uint64_t handle) const;

  bool Allocate(uint32_t device, uint64_t bytes, void** at, BackendText* wrong) const;
  void Free(uint32_t device, void* at) const;
  bool AllocatePinned(uint32_t device, uint64_t bytes, void** host, void** mapped,
                      BackendText* wrong) const;
  void FreePinned(uint32_t device, void* host) const;
  bool Copy(uint32_t device, void* to, const void* from, uint64_t bytes, BackendText* wrong) const;
  bool Zero(uint32_t device, void* at, uint64_t bytes, BackendText* wrong) const;

 private:
  // Check, and for exhausted memory how much is free.
  bool Made(CUresult result, const Device& device, uint64_t bytes, const char* what,
            BackendText* wrong) const;
  // Runs `work` on the device's own stream and waits for that alone.
  template <typename Work>
  bool Await(uint32_t device, const char* what, uint64_t bytes, BackendText* wrong,
             Work work) const;

  const Driver& driver_;
  const Devices& devices_;
};

}  // namespace ultraep

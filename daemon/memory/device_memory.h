// Slots on GPUs that the daemon owns (MemoryKind::kCudaDaemon), and what it knows of the node's
// GPUs. The only part of the daemon that loads the CUDA backend. It makes no CUDA context: memory
// is made and passed on, never mapped.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "protocol/device_backend.h"
#include "protocol/message.h"
#include "protocol/operator_messages.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

// Paths; empty: what the loader finds.
struct CudaOptions {
  std::string backend = "off";  // none; "auto": from `beside`, else what the loader finds
  std::string driver;
  std::string nvml;
  std::string beside;  // the folder in which the backend is looked for first
};

struct CudaState {
  CudaUse use = CudaUse::kOff;
  uint32_t devices = 0;         // that a group's slots can be on
  uint32_t driver_version = 0;  // 13000: 13.0
  std::string found;            // in words: what there is, or why there is nothing
};

// The slots of one generation, on as many GPUs as it has ranks. Gives its hold of them up when it
// goes; they live on as long as a rank maps them.
class NodeSlots {
 public:
  NodeSlots() = default;
  NodeSlots(NodeSlots&& o) noexcept { *this = std::move(o); }
  NodeSlots& operator=(NodeSlots&& o) noexcept {
    std::swap(backend_, o.backend_);
    std::swap(handles_, o.handles_);
    return *this;
  }
  ~NodeSlots() {
    for (const uint64_t handle : handles_) backend_->Release(handle);
  }

 private:
  friend class NodeDevices;

  DeviceBackend* backend_ = nullptr;
  std::vector<uint64_t> handles_;
};

// Any thread.
class NodeDevices {
 public:
  NodeDevices();
  // Does not wait for a driver that does not answer.
  ~NodeDevices();

  // Loads the backend on a thread of its own, which logs what it found: a driver may take seconds,
  // and nothing else of the daemon needs it.
  void Open(const CudaOptions& options);
  CudaState state() const;
  // `bytes` of memory on the GPU of each rank, and a descriptor for each in `descriptors`. Empty on
  // success, else what was found and what is needed.
  std::string Make(const std::vector<JoinDevice>& devices, uint64_t bytes, NodeSlots* slots,
                   std::vector<Descriptor>* descriptors) const;

 private:
  struct Shared;

  const std::shared_ptr<Shared> shared_;  // with the thread, which may outlive this
};

}  // namespace ultraep

// One rank's membership on a GPU: its device, mailbox, carrier, ultraep's own streams, and where
// the layers' main copies lie.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/kernel_list.h"
#include "plugin/api/ultraep_cuda.h"
#include "plugin/core/device/carrier.h"
#include "plugin/core/device/step_memory.h"
#include "plugin/core/result.h"

namespace ultraep {

// A stream or an event of a device, freed with its owner.
class DeviceQueue {
 public:
  DeviceQueue() = default;
  DeviceQueue(const DeviceQueue&) = delete;
  DeviceQueue& operator=(const DeviceQueue&) = delete;
  ~DeviceQueue();
  Result MakeStream(const DeviceContext& context);
  Result MakeEvent(const DeviceContext& context);
  void* get() const { return at_; }

 private:
  const DeviceContext* context_ = nullptr;
  void* at_ = nullptr;
  bool stream_ = false;
};

// Addresses per layer in device memory, where kernels look them up.
class AddressTable {
 public:
  // `entries` per layer, each on `align` bytes.
  Result Make(const DeviceContext& context, uint32_t layers, uint64_t entries);
  Result Set(const DeviceContext& context, uint32_t layer, const void* const* addresses,
             uint64_t align, const char* name);
  // Null: not set.
  void* const* layer(uint32_t layer) const;
  // As they were set. [entries]
  const void* const* host(uint32_t layer) const { return &host_[uint64_t{layer} * entries_]; }

 private:
  uint64_t entries_ = 0;
  std::vector<const void*> host_;
  std::vector<bool> set_;
  DeviceBytes device_;
};

class DeviceClient {
 public:
  // Takes device and memory; nothing runs yet. REFUSED with what was found and what is needed.
  static Result Make(const GroupConfig& config, const ultraep_group_config& asked,
                     std::unique_ptr<DeviceClient>* out);
  // No kernel of this client runs any more, or they end by the stop words.
  ~DeviceClient();

  void Start(uint64_t spin_ns, Steps* steps);
  // The group has been left: nothing is enqueued any more.
  void Leave();
  // A forked child has neither memory nor threads of it.
  bool forked() const;
  Result CheckUsable() const;
  Carrier& carrier() { return *carrier_; }
  const DeviceContext& context() const { return memory_->context(); }
  const std::shared_ptr<StepMemory>& memory() const { return memory_; }
  const GroupConfig& config() const { return config_; }
  uint32_t rank() const { return rank_; }
  uint32_t stream_blocks() const { return stream_blocks_; }
  uint32_t reduce_blocks() const { return reduce_blocks_; }
  void* transfers() const { return transfers_.get(); }    // the stream that weights travel on
  void* reductions() const { return reductions_.get(); }  // and that gradients are added on

  Result SetMains(uint32_t layer, const void* const* weights);
  Result SetGradients(uint32_t layer, void* const* gradients, uint32_t type);
  const AddressTable& mains() const { return mains_; }
  const AddressTable& gradients() const { return gradients_; }
  GradientType gradient_type(uint32_t layer) const { return types_[layer]; }
  Result GatherRows(void* communicator, const uint32_t* row, uint32_t* rows, void* stream) const;
  void Describe(ultraep_cuda_device_info* info) const;

  // INTERNAL with the driver's words.
  Result Launch(Kernel kernel, uint32_t blocks, const void* arguments, void* stream) const;
  // `later` waits for what is in `stream` now.
  Result Join(void* stream, void* event, void* later) const;

 private:
  DeviceClient(const GroupConfig& config, const ultraep_group_config& asked);
  Result MakeQueues();
  Result CheckLayer(uint32_t layer) const;

  const int forks_;  // of the process when it was made
  const GroupConfig config_;
  const uint32_t rank_, stream_blocks_, reduce_blocks_;
  std::atomic<bool> left_{false};
  std::shared_ptr<StepMemory> memory_;
  std::unique_ptr<Carrier> carrier_;
  DeviceQueue transfers_, reductions_;
  AddressTable mains_, gradients_;
  std::vector<GradientType> types_;
};

}  // namespace ultraep

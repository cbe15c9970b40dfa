// A plan in device memory as the framework holds it: what each call puts into the stream.
#pragma once

#include <cstdint>
#include <vector>

#include "plugin/core/device/device_client.h"

// The C ABI's opaque type. The client outlives it.
struct ultraep_cuda_plan {
 public:
  // Ends what was begun, as far as that is not done: waits for it.
  ~ultraep_cuda_plan();
  static ultraep::Result Make(ultraep::DeviceClient* client, ultraep_cuda_plan** out);

  ultraep::Result Submit(ultraep::Kernel kernel, const void* from, uint64_t count, uint32_t layer,
                         uint32_t microbatch, void* stream);
  ultraep::Result AwaitVerdict(void* stream);
  ultraep::Result StreamWeights(uint32_t slot_set, uint32_t transfer, void* stream);
  ultraep::Result Route(const int32_t* ids, uint64_t count, int32_t* physical, void* stream);
  ultraep::Result RouteMap(const ultraep::RouteMapArguments& what, void* stream);
  ultraep::Result AwaitWeights(void* stream);
  ultraep::Result Release(void* stream);
  ultraep::Result PrepareGradients(bool zero, void* stream);
  ultraep::Result ReduceGradients(bool any_order, void* stream);
  ultraep::Result AwaitGradients(void* stream);
  ultraep::Result Read(ultraep_plan_info* info, ultraep_replica* replicas, uint32_t capacity) const;
  const ultraep_cuda_slot* slots() const;
  const ultraep::DeviceClient& client() const { return *client_; }

 private:
  explicit ultraep_cuda_plan(ultraep::DeviceClient* client) : client_(client) {}

  ultraep::DevicePlan* plan() const { return reinterpret_cast<ultraep::DevicePlan*>(memory_.at()); }
  ultraep::DeviceState* state() const { return client_->memory()->state(); }
  bool moves() const { return client_->config().shard_count > 0; }
  ultraep::Result CheckGradients() const;
  ultraep::Result Operate(ultraep::Kernel kernel, void* stream, uint32_t set = 0,
                          uint32_t transfer = UINT32_MAX) const;
  // Of what was begun and cannot be gone on with: the group learns it. Returns `wrong`.
  ultraep::Result GiveUp(ultraep::Result wrong) const;
  ultraep::Result SendBy(uint32_t transfer, void* stream);
  ultraep::Result SendByKernel(bool bulk);
  ultraep::Result SendByCopies(void* stream);
  ultraep::Result CopySend(const ultraep::PlanImageView& image, const ultraep::Send& send,
                           uint32_t set, uint32_t memory);
  // Whether the destinations of the stream's transfers have accepted it; waits for that.
  ultraep::Result Accepted(const ultraep::PlanImageView& image, const ultraep::Send& send,
                           uint32_t set, uint32_t memory, bool* accepted);
  ultraep::Result ReadImage(std::vector<unsigned char>* image) const;

  ultraep::DeviceClient* const client_;
  ultraep::DeviceBytes memory_;
  ultraep::DeviceQueue issued_, sent_, published_, reduced_;  // events
  uint32_t layer_ = 0;                                        // of the last submit
  bool submitted_ = false;                                    // and not awaited
  bool streamed_ = false;                                     // begun, and not released
  bool prepared_ = false;                                     // gradients that homes wait for
  bool reducing_ = false;                                     // begun, and not awaited
};

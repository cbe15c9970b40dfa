// What a rank's kernels keep between launches, and the pinned mailbox to the carrier thread: made
// once per client, at addresses that never change.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "kernels/device/mailbox.h"
#include "kernels/device/state.h"
#include "plugin/core/device/context.h"

namespace ultraep {

class StepMemory {
 public:
  // bound_ns: no wait of a kernel is longer.
  static Result Make(std::shared_ptr<DeviceContext> context, const GroupConfig& config,
                     uint32_t rank, uint64_t next_sequence, uint64_t bound_ns,
                     std::shared_ptr<StepMemory>* out);

  const DeviceContext& context() const { return *context_; }

  const MailboxView& mailbox() const { return mailbox_; }  // the host's address
  DeviceState* state() const { return reinterpret_cast<DeviceState*>(state_.at()); }
  const DevicePlanLayout& plan_layout() const { return plan_layout_; }
  uint64_t state_bytes() const { return state_.bytes(); }
  uint64_t pinned_bytes() const { return pinned_.bytes(); }

  // Gives a generation's slots one of kMemories places in the mailbox, where the carrier and the
  // kernels find them; bases: [ranks]. kMemories: none is free.
  uint32_t Claim(uint64_t generation, const std::vector<void*>& bases);
  void Free(uint32_t index);
  // Where this GPU sees a rank's slots.
  unsigned char* base(uint32_t index, uint32_t rank) const {
    return reinterpret_cast<unsigned char*>(mailbox_.memory(index).bases()[rank]);
  }
  // Operations that kernels have begun there and not ended.
  bool busy(uint32_t index) const;

 private:
  StepMemory(std::shared_ptr<DeviceContext> context, const GroupConfig& config)
      : context_(std::move(context)), plan_layout_(config) {}

  const std::shared_ptr<DeviceContext> context_;
  const DevicePlanLayout plan_layout_;
  DeviceBytes pinned_, state_;
  MailboxView mailbox_;
  std::mutex mutex_;  // guards claimed_
  bool claimed_[kMemories] = {};
};

}  // namespace ultraep

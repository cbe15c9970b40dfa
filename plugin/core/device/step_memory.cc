#include "plugin/core/device/step_memory.h"

namespace ultraep {

Result StepMemory::Make(std::shared_ptr<DeviceContext> owner, const GroupConfig& config,
                        uint32_t rank, uint64_t next_sequence, uint64_t bound_ns,
                        std::shared_ptr<StepMemory>* out) {
  std::shared_ptr<StepMemory> made(new StepMemory(std::move(owner), config));
  const DeviceContext& context = *made->context_;
  const MailboxLayout mailbox(config, made->plan_layout_.image_bytes);
  if (Result r = made->pinned_.AllocatePinned(context, mailbox.bytes); !r.ok()) return r;
  made->mailbox_ = {made->pinned_.host(), mailbox};
  made->mailbox_.head().taken.value.store(next_sequence, std::memory_order_relaxed);
  const DeviceStateLayout layout(config);
  if (Result r = made->state_.Allocate(context, layout.bytes); !r.ok()) return r;
  unsigned char* const at = made->state_.at();
  DeviceState state(config, rank);
  state.bound_ns = bound_ns;
  state.mailbox = {made->pinned_.at(), mailbox};
  state.counts = reinterpret_cast<uint32_t*>(at + layout.counts_at);
  state.next = state.resolved = next_sequence;
  for (uint32_t i = 0; i < kMemories; ++i) {
    state.memories[i].bases =
        reinterpret_cast<unsigned char**>(at + layout.bases_at + layout.bases_stride * i);
    state.memories[i].uses =
        reinterpret_cast<DeviceGradientUse*>(at + layout.uses_at + layout.uses_stride * i);
  }
  BackendText wrong;
  if (!context.backend().ToDevice(context.device(), at, &state, sizeof state, &wrong))
    return RefusedJoin(wrong.text);
  *out = std::move(made);
  return Ok();
}

uint32_t StepMemory::Claim(uint64_t generation, const std::vector<void*>& bases) {
  std::lock_guard lock(mutex_);
  uint32_t index = 0;
  while (index < kMemories && claimed_[index]) ++index;
  if (index == kMemories) return index;
  claimed_[index] = true;
  MailboxMemory& memory = mailbox_.memory(index);
  const auto ranks = uint32_t(bases.size());
  for (uint32_t r = 0; r < ranks; ++r) {
    memory.bases()[r] = reinterpret_cast<uint64_t>(bases[r]);
    memory.gone(ranks)[r].store(0, std::memory_order_relaxed);
  }
  memory.generation.value.store(generation, std::memory_order_relaxed);
  mailbox_.head().stop[index].value.store(0, std::memory_order_relaxed);
  return index;  // kernels learn of it by an image, which is published with a release
}

void StepMemory::Free(uint32_t index) {
  std::lock_guard lock(mutex_);
  claimed_[index] = false;
}

bool StepMemory::busy(uint32_t index) const {
  const MailboxHead& head = mailbox_.head();
  const uint64_t ended = head.ended[index].value.load(std::memory_order_acquire);
  return head.begun[index].value.load(std::memory_order_acquire) != ended;
}

}  // namespace ultraep

// Waits for a step's verdict and brings its plan image into device memory. From here on operations
// use the memory that the image names.
#pragma once

#include <cstdint>

#include "kernels/device/watch.h"

namespace ultraep::device {
namespace internal {

// 16 bytes at a time; both addresses are aligned to that, and so is what lies behind the image.
template <class Team>
ULTRAEP_HOST_DEVICE void CopyImage(Team& team, unsigned char* to, const unsigned char* from,
                                   uint64_t bytes) {
  struct alignas(16) Words {
    uint64_t at[2];
  };
  for (uint64_t i = team.rank(); i < (bytes + 15) / 16; i += team.size())
    reinterpret_cast<Words*>(to)[i] = reinterpret_cast<const Words*>(from)[i];
}

// A generation's memory, before the first operation on it. All members.
template <class Team>
ULTRAEP_HOST_DEVICE void SetUpMemory(Team& team, DeviceState& state, uint32_t index,
                                     uint64_t generation) {
  DeviceMemory& memory = state.memories[index];
  const uint64_t* const bases = state.mailbox.memory(index).bases();
  for (uint32_t r = team.rank(); r < state.ranks; r += team.size())
    memory.bases[r] = reinterpret_cast<unsigned char*>(bases[r]);
  for (uint32_t i = team.rank(); i < state.slot_sets * state.slots; i += team.size())
    memory.uses[i] = {};
  for (uint32_t i = team.rank(); i < kMaxSlotSets; i += team.size()) memory.in_use[i] = 0;
  team.Sync();  // all members have seen that the generation is new
  if (team.rank() != 0) return;
  memory.history = {};
  memory.next_forward = 0;
  memory.failed = 0;
  memory.generation = generation;
}

// What later kernels find when there is no verdict: nothing to stream, all tokens to the mains.
inline ULTRAEP_HOST_DEVICE void FailImage(PlanImageHead* head, uint64_t sequence) {
  *head = {};
  head->sequence = sequence;
  head->verdict = DeviceVerdict::kFailed;
}

// Member 0: until the verdict is there. Notes why it is not.
template <class Team>
ULTRAEP_HOST_DEVICE bool AwaitVerdict(Team& team, DeviceState& state, const DevicePlan& plan) {
  const uint64_t sequence = state.resolved;
  const uint32_t memory = PresentMemory(state);
  if (sequence == state.next || plan.stream.active || plan.reduce.active) {
    RaiseOrder(team, state, memory, Kernel::kAwait, sequence);
    return false;
  }
  const Word& verdict = state.mailbox.verdict(sequence);
  const std::atomic<uint64_t>* const closed = &state.mailbox.head().closed.value;
  const uint64_t start = team.Now();
  for (uint32_t looks = 1; team.Acquire(&verdict.value) != sequence + 1; ++looks) {
    if (looks % Watch<Team>::kLooks == 0 &&
        (team.Acquire(closed) || Watch<Team>(team, state, memory).Late(start))) {
      RaiseFailure(team, state, memory, DeviceFailure::kNoVerdict, 0, 0, sequence);
      ++state.late;
      return false;
    }
    team.Relax();
  }
  return true;
}

}  // namespace internal

// One block.
template <class Team>
ULTRAEP_HOST_DEVICE void Await(Team& team, Block, const AwaitArguments& a) {
  namespace in = internal;
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  const uint64_t sequence = state.resolved;
  const bool open = sequence != state.next;
  // An error of order: what is at work on the plan must find it as it is, and must end.
  const bool busy = a.plan->stream.active || a.plan->reduce.active;
  for (uint32_t i = team.rank(); i < state.slots && !busy; i += team.size()) view.slots()[i] = {};
  const bool there = team.Elect([&] { return uint64_t{in::AwaitVerdict(team, state, *a.plan)}; });
  unsigned char* const image = view.at + view.layout.image_at;
  auto* const head = reinterpret_cast<PlanImageHead*>(image);
  if (there) {
    const unsigned char* const from = state.mailbox.image(sequence);
    const uint64_t bytes = reinterpret_cast<const PlanImageHead*>(from)->bytes;
    const uint64_t most = view.layout.image_bytes;
    in::CopyImage(team, image, from, bytes < most ? bytes : most);
    team.Sync();
    const bool fresh = team.Elect([&] {
      return uint64_t{head->generation &&
                      state.memories[head->memory].generation != head->generation};
    });
    if (fresh) in::SetUpMemory(team, state, head->memory, head->generation);
  }
  team.Sync();
  if (team.rank() != 0) return;
  if (there && head->generation) {
    state.memory = head->memory;
    state.has_memory = 1;
  }
  if (!busy) {
    if (!there) in::FailImage(head, sequence);
    *a.plan = {};
  }
  if (!open) return;
  ++state.resolved;
  team.Release(&state.mailbox.head().resolved.value, state.resolved);
}

}  // namespace ultraep::device

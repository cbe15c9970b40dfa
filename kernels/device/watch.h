// What all kernels share: words and counters of a state, how a failure is noted, and how one member
// waits for something that may never come.
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/device/kernel_list.h"
#include "kernels/device/state.h"
#include "protocol/host_device.h"

namespace ultraep::device {

// A block among those of its launch.
struct Block {
  uint32_t index = 0, count = 1;
};

inline constexpr uint32_t kNoMemory = UINT32_MAX;

inline ULTRAEP_HOST_DEVICE std::atomic<uint64_t>* AsWord(uint64_t* place) {
  return reinterpret_cast<std::atomic<uint64_t>*>(place);
}
template <class Team>
ULTRAEP_HOST_DEVICE typename Team::Counter* AsCounter(unsigned long long* place) {
  return reinterpret_cast<typename Team::Counter*>(place);
}

// A plan's parts, where the layout says.
struct PlanView {
  ULTRAEP_HOST_DEVICE PlanView(const DeviceState& state, DevicePlan* of)
      : plan(*of), at(reinterpret_cast<unsigned char*>(of)), layout(state.plan) {}

  template <class T>
  ULTRAEP_HOST_DEVICE T* part(uint64_t offset) const {
    return reinterpret_cast<T*>(at + offset);
  }
  ULTRAEP_HOST_DEVICE PlanImageView image() const { return {at + layout.image_at}; }
  ULTRAEP_HOST_DEVICE const PlanImageHead& head() const { return image().head(); }
  ULTRAEP_HOST_DEVICE StreamTally* stream_tallies() const {
    return part<StreamTally>(layout.tallies_at);
  }
  ULTRAEP_HOST_DEVICE ReduceTally* reduce_tallies() const {
    return part<ReduceTally>(layout.tallies_at + kMaxBlocks * sizeof(StreamTally));
  }
  ULTRAEP_HOST_DEVICE DeviceSlot* slots() const { return part<DeviceSlot>(layout.slots_at); }
  ULTRAEP_HOST_DEVICE uint32_t* counts() const { return part<uint32_t>(layout.counts_at); }
  // Of the blocks that have counted.
  ULTRAEP_HOST_DEVICE unsigned long long* count_ticket(uint32_t experts) const {
    return part<unsigned long long>(layout.counts_at + (uint64_t{experts} * 4 + 7) / 8 * 8);
  }

  DevicePlan& plan;
  unsigned char* const at;
  const DevicePlanLayout& layout;
};

inline ULTRAEP_HOST_DEVICE SlotView SlotsOf(const DeviceState& state, uint32_t memory) {
  return {&state.layout, state.memories[memory].bases};
}

// May operations of the plan stream anything at all?
inline ULTRAEP_HOST_DEVICE bool Streams(const DeviceState& state, const PlanImageHead& head) {
  return head.verdict == DeviceVerdict::kPlan && head.generation && head.replica_count > 0 &&
         state.layout.shard_count > 0 && state.has_memory;
}

inline ULTRAEP_HOST_DEVICE uint32_t PresentMemory(const DeviceState& state) {
  return state.has_memory ? state.memory : kNoMemory;
}

template <class Team>
ULTRAEP_HOST_DEVICE bool HasFailed(Team& team, DeviceState& state, uint32_t memory) {
  return memory != kNoMemory && team.Acquire(AsWord(&state.memories[memory].failed));
}

// One member: something that this step needs has not been done.
template <class Team>
ULTRAEP_HOST_DEVICE void Lose(Team& team, DeviceState& state) {
  team.Add(reinterpret_cast<uint64_t*>(&state.mailbox.head().lost.value), uint64_t{1});
}

// One member: this rank cannot go on with that memory. The first one to say so writes the note,
// unless the carrier has not read an earlier one yet.
template <class Team>
ULTRAEP_HOST_DEVICE void RaiseFailure(Team& team, DeviceState& state, uint32_t memory,
                                      DeviceFailure failure, uint64_t a, uint64_t b,
                                      uint64_t sequence) {
  Lose(team, state);
  if (memory != kNoMemory) {
    if (!team.Exchange(AsWord(&state.memories[memory].failed), 0, 1)) return;
    // What this rank computes from now on is worth nothing to the others either, and reaches them
    // only after this.
    for (uint32_t r = 0; r < state.ranks; ++r)
      team.Release(&SlotsOf(state, memory).board(r).voided.value, 1);
  }
  FailureNote& note = state.mailbox.head().failure;
  if (!team.Exchange(&note.code.value, uint64_t(DeviceFailure::kNone),
                     uint64_t(DeviceFailure::kBeingWritten)))
    return;
  note.sequence = sequence;
  note.a = a;
  note.b = b;
  note.memory = memory == kNoMemory ? kMemories : memory;
  team.Release(&note.code.value, uint64_t(failure));
}

template <class Team>
ULTRAEP_HOST_DEVICE void RaiseOrder(Team& team, DeviceState& state, uint32_t memory, Kernel kernel,
                                    uint64_t sequence) {
  RaiseFailure(team, state, memory, DeviceFailure::kOrder, uint64_t(kernel), 0, sequence);
}

// One member: has another rank said that it could not follow? Then neither does this one.
template <class Team>
ULTRAEP_HOST_DEVICE bool IsVoided(Team& team, DeviceState& state, uint32_t memory,
                                  uint64_t sequence) {
  if (!team.Acquire(&SlotsOf(state, memory).board(state.rank).voided.value)) return false;
  if (!HasFailed(team, state, memory))
    RaiseFailure(team, state, memory, DeviceFailure::kStopped, 0, 0, sequence);
  else
    Lose(team, state);
  return true;
}

enum class WaitEnd : uint32_t {
  kThere,
  kLost,     // it will never come, or has not within the bound
  kStopped,  // the carrier says so
  kFailed    // another block of this rank could not go on
};

// Waits of one member, at most as long as the state's bound each. What it waits for is looked at
// all the time, reasons to give up every 64 looks: they lie further away.
template <class Team>
class Watch {
 public:
  ULTRAEP_HOST_DEVICE Watch(Team& team, DeviceState& state, uint32_t memory)
      : team_(team), state_(state), memory_(memory) {}

  // until there(). lost(): it will never be; then it is looked at once more, so that what a rank
  // did before it went counts.
  template <class There, class Lost>
  ULTRAEP_HOST_DEVICE WaitEnd Until(const There& there, const Lost& lost) {
    const uint64_t start = team_.Now();
    for (uint32_t looks = 1; !there(); ++looks) {
      if (looks % kLooks == 0) {
        if (failed()) return WaitEnd::kFailed;
        if (stopped()) return WaitEnd::kStopped;
        if (lost() || Late(start)) return there() ? WaitEnd::kThere : WaitEnd::kLost;
      }
      team_.Relax();
    }
    return WaitEnd::kThere;
  }

  ULTRAEP_HOST_DEVICE bool Late(uint64_t start) const {
    return team_.Now() - start >= state_.bound_ns;
  }
  ULTRAEP_HOST_DEVICE bool failed() const { return HasFailed(team_, state_, memory_); }
  ULTRAEP_HOST_DEVICE bool stopped() const {
    return memory_ != kNoMemory && team_.Acquire(&state_.mailbox.head().stop[memory_].value);
  }
  ULTRAEP_HOST_DEVICE bool gone(uint32_t rank) const {
    return team_.Acquire(state_.mailbox.memory(memory_).gone(state_.ranks) + rank);
  }
  // The rank that sends transfer `t`, or one further up towards the main copy, is gone.
  ULTRAEP_HOST_DEVICE bool GoneUpstream(const Replica* replicas, uint32_t transfer) const {
    for (int64_t t = transfer; t >= 0; t = replicas[t].parent) {
      const Replica& r = replicas[t];
      const uint32_t sender =
          r.parent < 0 ? r.expert / state_.experts_per_rank : replicas[r.parent].rank;
      if (gone(sender)) return true;
    }
    return false;
  }
  // Notes why a wait ended; true if what was waited for is there.
  ULTRAEP_HOST_DEVICE bool Conclude(WaitEnd end, DeviceFailure lost, uint64_t a, uint64_t b,
                                    uint64_t sequence) {
    if (end == WaitEnd::kThere) return true;
    if (end == WaitEnd::kLost)
      RaiseFailure(team_, state_, memory_, lost, a, b, sequence);
    else if (end == WaitEnd::kStopped)
      RaiseFailure(team_, state_, memory_, DeviceFailure::kStopped, a, b, sequence);
    else
      Lose(team_, state_);
    return false;
  }

  static constexpr uint32_t kLooks = 64;

 private:
  Team& team_;
  DeviceState& state_;
  const uint32_t memory_;
};

}  // namespace ultraep::device

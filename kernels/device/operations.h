// Begins and ends the operations of a plan: streams, restores, reductions (rule 6; the host's text
// is plugin/core/operation_book.cc). Whether an operation is active decides for all kernels behind
// it.
//
// A rank's operations begin in stream order, whatever streams their other kernels run on.
#pragma once

#include <cstdint>

#include "kernels/device/transfer.h"
#include "kernels/device/watch.h"

namespace ultraep::device {
namespace internal {

// One member: an operation gets its number. Its counters are 0.
template <class Team>
ULTRAEP_HOST_DEVICE void Issue(Team& team, DeviceState& state, uint32_t memory, OperationKind kind,
                               uint64_t sequence, uint32_t set, PlanOperation* op) {
  *op = {};
  op->number = state.memories[memory].history.Issue(sequence, kind, set);
  op->sequence = sequence;
  op->issued_ns = team.Now();
  op->memory = memory;
  op->set = set;
  op->active = 1;
  MailboxHead& head = state.mailbox.head();
  team.Release(&head.begun[memory].value, team.Acquire(&head.begun[memory].value) + 1);
}

// One member: the plan has no such operation any more. Everything that it stored is there before
// the carrier sees that it ended.
template <class Team>
ULTRAEP_HOST_DEVICE void End(Team& team, DeviceState& state, PlanOperation* op) {
  std::atomic<uint64_t>& ended = state.mailbox.head().ended[op->memory].value;
  *op = {};
  for (;;) {
    const uint64_t seen = team.Acquire(&ended);
    if (team.Exchange(&ended, seen, seen + 1)) return;
  }
}

// May an operation's next piece be done? One answer for all members: it may change meanwhile.
template <class Team>
ULTRAEP_HOST_DEVICE bool StillFine(Team& team, DeviceState& state, const PlanOperation& op) {
  return team.Elect([&] {
    if (!HasFailed(team, state, op.memory)) return uint64_t{1};
    Lose(team, state);
    return uint64_t{0};
  });
}

// One member: may the plan's next stream begin on that set? Else notes why not.
template <class Team>
ULTRAEP_HOST_DEVICE bool CheckStream(Team& team, DeviceState& state, const PlanView& view,
                                     const OperationArguments& a) {
  const uint32_t set = a.set;
  const PlanImageHead& head = view.head();
  const uint32_t index = state.memory;
  const DeviceMemory& memory = state.memories[index];
  if (HasFailed(team, state, index)) {
    Lose(team, state);
    return false;
  }
  if (team.Acquire(&state.mailbox.head().stop[index].value)) {
    RaiseFailure(team, state, index, DeviceFailure::kStopped, 0, 0, head.sequence);
    return false;
  }
  if (set < state.slot_sets && memory.in_use[set]) {
    RaiseFailure(team, state, index, DeviceFailure::kSetInUse, set, memory.in_use[set] - 1,
                 head.sequence);
    return false;
  }
  if (IsVoided(team, state, index, head.sequence)) return false;
  const bool forward = view.plan.streamed == 0;
  if (a.layer != head.layer || set >= state.slot_sets || view.plan.stream.active ||
      (forward && head.sequence < memory.next_forward)) {
    RaiseOrder(team, state, index, Kernel::kBeginStream, head.sequence);
    return false;
  }
  return true;
}

// What computes with this rank's slots looks up.
template <class Team>
ULTRAEP_HOST_DEVICE void FillSlots(Team& team, const DeviceState& state, const PlanView& view,
                                   uint32_t set) {
  const PlanImageView image = view.image();
  const SlotView slots = SlotsOf(state, state.memory);
  for (uint32_t i = team.rank(); i < image.head().replica_count; i += team.size()) {
    const Replica& r = image.replicas()[i];
    if (r.rank != state.rank) continue;
    DeviceSlot& slot = view.slots()[r.slot];
    slot.expert = r.expert;
    slot.tokens = r.tokens;
    for (uint32_t p = 0; p < state.layout.shard_count; ++p)
      slot.shards[p] = slots.shard(r.rank, set, r.slot, p);
    for (uint32_t p = 0; p < state.layout.gradient_count; ++p)
      slot.gradients[p] = slots.gradient(r.rank, set, r.slot, p);
  }
}

}  // namespace internal

// One block.
template <class Team>
ULTRAEP_HOST_DEVICE void BeginStream(Team& team, Block, const OperationArguments& a) {
  namespace in = internal;
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  const PlanImageHead& head = view.head();
  // Addresses of an earlier stream may be of memory that is gone: there are some only if this
  // begins.
  for (uint32_t i = team.rank(); i < state.slots; i += team.size()) view.slots()[i] = {};
  if (!Streams(state, head)) return;
  if (!team.Elect([&] { return uint64_t{in::CheckStream(team, state, view, a)}; })) return;
  auto* const done = view.part<uint64_t>(view.layout.stream_done_at);
  for (uint32_t i = team.rank(); i < head.send_count; i += team.size()) done[i] = 0;
  in::FillSlots(team, state, view, a.set);
  if (team.rank() == 0) {
    DeviceMemory& memory = state.memories[state.memory];
    const bool restore = view.plan.streamed > 0;
    in::Issue(team, state, state.memory,
              restore ? OperationKind::kRestore : OperationKind::kForward, head.sequence, a.set,
              &view.plan.stream);
    if (!restore) memory.next_forward = head.sequence + 1;
    memory.in_use[a.set] = head.sequence + 1;
    ++view.plan.streamed;
  }
  team.Sync();
  // Everything this rank read from the set and sent from it happened before, in stream order.
  if (team.rank() == 0)
    team.Signal(&SlotsOf(state, state.memory).board(state.rank).accepts[a.set].value,
                view.plan.stream.number);
}

// Copy-engine mode; one block.
template <class Team>
ULTRAEP_HOST_DEVICE void AwaitAccepted(Team& team, Block, const OperationArguments& a) {
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  if (!view.plan.stream.active || team.rank() != 0) return;
  StreamWaits<Team> waits(team, state, view.plan.stream, view.image());
  const PlanImageView image = view.image();
  const Replica* const replicas = image.replicas();
  if (a.transfer == UINT32_MAX) {
    for (uint32_t i = 0; i < image.head().transfer_count; ++i)
      if (!waits.Accepted(replicas[image.transfers()[i]].rank)) return;
    return;
  }
  const Replica& r = replicas[a.transfer];
  if (!waits.Accepted(r.rank) || r.parent < 0) return;
  for (uint64_t chunk = 0; chunk < state.layout.chunks; ++chunk)
    if (!waits.Chunk(uint32_t(r.parent), chunk)) return;
}

// Copy-engine mode; one block. The copies are over in stream order.
template <class Team>
ULTRAEP_HOST_DEVICE void Signal(Team& team, Block, const SignalArguments& a) {
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  PlanOperation& op = view.plan.stream;
  if (!op.active || !internal::StillFine(team, state, op)) return;
  const PlanImageView image = view.image();
  const SlotView slots = SlotsOf(state, op.memory);
  const uint64_t chunks = state.layout.chunks;
  for (uint64_t i = team.rank(); i < a.count * chunks; i += team.size()) {
    const Replica& r = image.replicas()[image.transfers()[a.first + i / chunks]];
    team.Signal(slots.chunk_flags(r.rank, op.set, r.slot) + i % chunks, op.number);
  }
  if (team.rank() == 0) internal::CountSignalled(team, state, view, a.first, a.count);
}

// Until this rank's slots of the plan are complete; one block.
template <class Team>
ULTRAEP_HOST_DEVICE void Arrive(Team& team, Block, const OperationArguments& a) {
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  PlanOperation& op = view.plan.stream;
  if (!op.active || !internal::StillFine(team, state, op)) return;
  internal::Arrivals<Team> arrivals(team, state, op, view.image());
  if (!arrivals.Await() || team.rank() != 0) return;
  op.arrived_ns = team.Now();
  if (!arrivals.any()) return;
  TransferTotals& totals = state.mailbox.head().totals;
  team.Add(&totals.arrivals, uint64_t{1});
  team.Add(&totals.arrive_ns, op.arrived_ns - op.issued_ns);
}

// Own sends are over in stream order, own slots are read, and complete; one block. Also after a
// failure, so that the memory can be freed.
template <class Team>
ULTRAEP_HOST_DEVICE void Release(Team& team, Block block, const OperationArguments& a) {
  DeviceState& state = *a.state;
  PlanOperation& op = a.plan->stream;
  if (!op.active) return;
  // Else a transfer that is under way would land in the set's next operation.
  if (!op.arrived_ns) Arrive(team, block, a);
  team.Sync();
  if (team.rank() != 0) return;
  IsVoided(team, state, op.memory, op.sequence);
  if (op.prepared && !HasFailed(team, state, op.memory))  // homes wait for these gradients
    RaiseOrder(team, state, op.memory, Kernel::kRelease, op.sequence);
  state.memories[op.memory].in_use[op.set] = 0;
  internal::End(team, state, &op);
}

// One block. Data before flag: what filled the gradients is over in stream order.
template <class Team>
ULTRAEP_HOST_DEVICE void Publish(Team& team, Block, const OperationArguments& a) {
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  const PlanOperation& stream = view.plan.stream;
  PlanOperation& reduce = view.plan.reduce;
  const uint64_t begins = team.Elect([&] {
    if (!internal::MayReduce(team, state, view, Kernel::kPublish)) return uint64_t{0};
    if (a.layer != view.head().layer) {
      RaiseOrder(team, state, stream.memory, Kernel::kPublish, stream.sequence);
      return uint64_t{0};
    }
    internal::Issue(team, state, stream.memory, OperationKind::kReduce, stream.sequence, stream.set,
                    &reduce);
    *view.part<uint64_t>(view.layout.reduce_done_at) = 0;
    view.plan.stream.prepared = 0;
    return uint64_t{1};
  });
  if (!begins) return;
  const PlanImageView image = view.image();
  const SlotView slots = SlotsOf(state, stream.memory);
  for (uint32_t i = team.rank(); i < image.head().replica_count; i += team.size()) {
    const Replica& r = image.replicas()[i];
    if (r.rank != state.rank) continue;
    state.memories[stream.memory].uses[state.layout.place(stream.set, r.slot)] = {
        reduce.number, r.expert / state.experts_per_rank, 0};
    team.Signal(&slots.gradient_words(r.rank, stream.set, r.slot).ready.value, reduce.number);
  }
}

// One block.
template <class Team>
ULTRAEP_HOST_DEVICE void EndReduce(Team& team, Block, const OperationArguments& a) {
  PlanOperation& op = a.plan->reduce;
  if (team.rank() != 0 || !op.active) return;
  IsVoided(team, *a.state, op.memory, op.sequence);
  internal::End(team, *a.state, &op);
}

}  // namespace ultraep::device

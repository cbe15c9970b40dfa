// A plan's weights and gradients on their way: stream_weights.h and reduce_gradients.h on slots
// that are on GPUs, with waits that poll, and the tallies of all blocks.
#pragma once

#include <cstdint>

#include "kernels/device/watch.h"
#include "kernels/reduce_gradients.h"
#include "kernels/stream_weights.h"

namespace ultraep::device {

// What member 0 of a sending team waits for. Nobody sleeps, so nobody is woken.
template <class Team>
class StreamWaits {
 public:
  ULTRAEP_HOST_DEVICE StreamWaits(Team& team, DeviceState& state, const PlanOperation& op,
                                  const PlanImageView& image)
      : team_(team), state_(state), op_(op), image_(image), watch_(team, state, op.memory) {}

  ULTRAEP_HOST_DEVICE bool Accepted(uint32_t rank) {
    const std::atomic<uint64_t>* word =
        &SlotsOf(state_, op_.memory).board(rank).accepts[op_.set].value;
    const WaitEnd end = watch_.Until(
        [&] { return team_.Acquire(word) == op_.number; },
        [&] {
          return watch_.gone(rank) || OperationNumber::Passed(team_.Acquire(word), op_.number);
        });
    // Rule 7: not even one transfer more.
    return watch_.Conclude(end, DeviceFailure::kNotAccepted, rank, 0, op_.sequence) &&
           !watch_.failed();
  }
  ULTRAEP_HOST_DEVICE bool Chunk(uint32_t transfer, uint64_t chunk) {
    const std::atomic<uint64_t>* flag =
        SlotsOf(state_, op_.memory)
            .chunk_flags(state_.rank, op_.set, image_.replicas()[transfer].slot) +
        chunk;
    const WaitEnd end =
        watch_.Until([&] { return team_.Acquire(flag) == op_.number; },
                     [&] { return watch_.GoneUpstream(image_.replicas(), transfer); });
    return watch_.Conclude(end, DeviceFailure::kNoChunk, transfer, chunk, op_.sequence);
  }
  ULTRAEP_HOST_DEVICE void Announce(uint32_t) {}

 private:
  Team& team_;
  DeviceState& state_;
  const PlanOperation& op_;
  const PlanImageView image_;
  Watch<Team> watch_;
};

// Of a mask that is not 0.
inline ULTRAEP_HOST_DEVICE uint32_t LowestBit(uint64_t mask) {
#ifdef __CUDA_ARCH__
  return uint32_t(__ffsll(static_cast<long long>(mask)) - 1);
#else
  return uint32_t(__builtin_ctzll(mask));
#endif
}

// What member 0 of an adding team waits for.
template <class Team>
class ReduceWaits {
 public:
  ULTRAEP_HOST_DEVICE ReduceWaits(Team& team, DeviceState& state, const PlanOperation& op)
      : team_(team), state_(state), op_(op), watch_(team, state, op.memory) {}

  ULTRAEP_HOST_DEVICE uint64_t Gradients(const Replica* replicas, uint64_t pending, bool all) {
    uint64_t here = 0;
    const auto there = [&] {
      here = 0;
      for (uint64_t left = pending; left; left &= left - 1)
        if (Seen(replicas[LowestBit(left)]) == op_.number) here |= left & -left;
      return all ? here == pending : here != 0;
    };
    uint64_t missing = 0;
    const auto lost = [&] {
      for (uint64_t left = pending & ~here; left; left &= left - 1) {
        const Replica& r = replicas[LowestBit(left)];
        if (!watch_.gone(r.rank) && !OperationNumber::Passed(Seen(r), op_.number)) continue;
        missing = left & -left;  // the one to name
        return true;
      }
      return false;
    };
    const WaitEnd end = watch_.Until(there, lost);
    if (end == WaitEnd::kThere) return watch_.failed() ? 0 : here;
    const Replica& named = replicas[LowestBit(missing ? missing : pending & ~here)];
    watch_.Conclude(end, DeviceFailure::kNoGradient, named.rank, named.expert, op_.sequence);
    return 0;
  }
  ULTRAEP_HOST_DEVICE void Announce(uint32_t) {}

 private:
  ULTRAEP_HOST_DEVICE uint64_t Seen(const Replica& r) const {
    return team_.Acquire(
        &SlotsOf(state_, op_.memory).gradient_words(r.rank, op_.set, r.slot).ready.value);
  }

  Team& team_;
  DeviceState& state_;
  const PlanOperation& op_;
  Watch<Team> watch_;
};

namespace internal {

// This rank's slots of a stream: all members look, each at its part of the flags.
template <class Team>
class Arrivals {
 public:
  ULTRAEP_HOST_DEVICE Arrivals(Team& team, DeviceState& state, const PlanOperation& op,
                               const PlanImageView& image)
      : team_(team),
        state_(state),
        op_(op),
        replicas_(image.replicas()),
        count_(image.head().replica_count),
        watch_(team, state, op.memory) {}

  ULTRAEP_HOST_DEVICE bool any() const {
    for (uint32_t t = 0; t < count_; ++t)
      if (replicas_[t].rank == state_.rank) return true;
    return false;
  }

  // All members. Until everything is there; else notes what is missing.
  ULTRAEP_HOST_DEVICE bool Await() {
    Place mine{0, team_.rank()};
    const uint64_t start = team_.Now();
    for (uint32_t looks = 1;; ++looks) {
      uint64_t missing;
      team_.Prefix(!Advance(&mine, team_.rank(), team_.size()), &missing);
      if (!missing) return true;
      if (looks % Watch<Team>::kLooks == 0 &&
          !team_.Elect([&] { return uint64_t{MayGoOn(watch_.Late(start))}; }))
        return false;
      team_.Relax();
    }
  }

 private:
  struct Place {
    uint32_t transfer;
    uint64_t chunk;
  };

  // From there on: the next flag, of every `step`-th one, that is missing; false if there is one.
  ULTRAEP_HOST_DEVICE bool Advance(Place* at, uint64_t first, uint64_t step) const {
    const SlotView slots = SlotsOf(state_, op_.memory);
    for (; at->transfer < count_; ++at->transfer, at->chunk = first) {
      const Replica& r = replicas_[at->transfer];
      if (r.rank != state_.rank) continue;
      const std::atomic<uint64_t>* flags = slots.chunk_flags(r.rank, op_.set, r.slot);
      for (; at->chunk < state_.layout.chunks; at->chunk += step)
        if (team_.Acquire(flags + at->chunk) != op_.number) return false;
    }
    return true;
  }
  // Whether somebody is gone is read before the flags: what a rank sent before it went counts.
  ULTRAEP_HOST_DEVICE bool MayGoOn(bool late) {
    Place at{0, 0};
    if (Advance(&at, 0, 1)) return true;
    if (watch_.failed()) return false;
    WaitEnd end = WaitEnd::kThere;
    if (watch_.stopped())
      end = WaitEnd::kStopped;
    else if (late || watch_.GoneUpstream(replicas_, at.transfer))
      end = WaitEnd::kLost;
    const uint32_t before = at.transfer;
    if (end == WaitEnd::kLost && (Advance(&at, 0, 1) || at.transfer != before)) return true;
    return watch_.Conclude(end, DeviceFailure::kNoChunk, at.transfer, at.chunk, op_.sequence);
  }

  Team& team_;
  DeviceState& state_;
  const PlanOperation& op_;
  const Replica* const replicas_;
  const uint32_t count_;
  Watch<Team> watch_;
};

// Member 0 of a block that has come back: true for the last one, if none has failed.
template <class Team>
ULTRAEP_HOST_DEVICE bool AllFine(Team& team, DeviceState& state, Block block, bool fine,
                                 PlanOperation* op) {
  if (!fine) {
    team.Claim(AsCounter<Team>(&op->failures));
    Lose(team, state);
  }
  return team.Claim(AsCounter<Team>(&op->blocks)) + 1 == block.count && op->failures == 0;
}

// Blocks that have a tally.
inline ULTRAEP_HOST_DEVICE Block Capped(Block block) {
  return {block.index, block.count < kMaxBlocks ? block.count : kMaxBlocks};
}

template <class Team>
ULTRAEP_HOST_DEVICE void CountStream(Team& team, DeviceState& state, const PlanOperation& op,
                                     const StreamTally& sum, bool complete) {
  TransferTotals& totals = state.mailbox.head().totals;
  team.Add(&totals.transfers, sum.transfers);
  team.Add(&totals.sent_bytes, sum.bytes);
  team.Add(&totals.relayed_bytes, sum.relayed_bytes);
  team.Add(&totals.copy_ns, sum.copy_ns);
  team.Add(&totals.send_wait_ns, sum.wait_ns);
  if (!complete) return;
  team.Add(&totals.sends, uint64_t{1});
  team.Add(&totals.send_ns, team.Now() - op.issued_ns);
}

// Copy-engine mode: `count` of this rank's transfers, from `first` on, are over.
template <class Team>
ULTRAEP_HOST_DEVICE void CountSignalled(Team& team, DeviceState& state, const PlanView& view,
                                        uint32_t first, uint32_t count) {
  const PlanImageView image = view.image();
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < state.layout.shard_count; ++i) bytes += state.layout.shard_bytes[i];
  StreamTally sum;
  for (uint32_t i = first; i < first + count; ++i) {
    ++sum.transfers;
    sum.bytes += bytes;
    if (image.replicas()[image.transfers()[i]].parent >= 0) sum.relayed_bytes += bytes;
  }
  PlanOperation& op = view.plan.stream;
  const uint64_t before = team.Add(reinterpret_cast<uint64_t*>(&op.next), uint64_t{count});
  CountStream(team, state, op, sum, before + count == image.head().transfer_count);
}

// One member: does the plan's stream allow what `kernel` is about to do with gradients? Notes an
// error of order.
template <class Team>
ULTRAEP_HOST_DEVICE bool MayReduce(Team& team, DeviceState& state, const PlanView& view,
                                   Kernel kernel) {
  const PlanOperation& stream = view.plan.stream;
  if (!state.layout.gradient_count || !(stream.active || Streams(state, view.head()))) return false;
  const uint32_t memory = stream.active ? stream.memory : state.memory;
  if (HasFailed(team, state, memory)) {
    Lose(team, state);
    return false;
  }
  if (stream.active && !view.plan.reduce.active && (kernel == Kernel::kPrepare || stream.prepared))
    return true;
  RaiseOrder(team, state, memory, kernel, view.head().sequence);
  return false;
}

// Member 0: until this rank's slots of the stream have had their last gradients taken.
template <class Team>
ULTRAEP_HOST_DEVICE bool AwaitTaken(Team& team, DeviceState& state, const PlanView& view) {
  const PlanOperation& op = view.plan.stream;
  Watch<Team> watch(team, state, op.memory);
  const PlanImageView image = view.image();
  for (uint32_t i = 0; i < image.head().replica_count; ++i) {
    const Replica& r = image.replicas()[i];
    if (r.rank != state.rank) continue;
    const DeviceGradientUse use =
        state.memories[op.memory].uses[state.layout.place(op.set, r.slot)];
    if (!use.number) continue;
    const std::atomic<uint64_t>* word =
        &SlotsOf(state, op.memory).gradient_words(state.rank, op.set, r.slot).taken.value;
    const WaitEnd end = watch.Until(
        [&] { return team.Acquire(word) == use.number; },
        [&] {
          return watch.gone(use.home) || OperationNumber::Passed(team.Acquire(word), use.number);
        });
    if (!watch.Conclude(end, DeviceFailure::kNotTaken, use.home, r.slot, op.sequence)) return false;
  }
  return !watch.failed();
}

// This block's part of the gradients of this rank's slots.
template <class Team>
ULTRAEP_HOST_DEVICE void ZeroGradients(Team& team, Block block, const DeviceState& state,
                                       const PlanView& view) {
  struct alignas(16) Words {
    uint64_t at[2];
  };
  const PlanOperation& op = view.plan.stream;
  const PlanImageView image = view.image();
  for (uint32_t t = 0; t < image.head().replica_count; ++t) {
    const Replica& r = image.replicas()[t];
    if (r.rank != state.rank) continue;
    auto* const at =
        reinterpret_cast<Words*>(SlotsOf(state, op.memory).gradient(state.rank, op.set, r.slot, 0));
    const uint64_t words = state.layout.gradient_stride / sizeof(Words);
    const uint64_t step = uint64_t{block.count} * team.size();
    for (uint64_t i = uint64_t{block.index} * team.size() + team.rank(); i < words; i += step)
      at[i] = {};
  }
}

}  // namespace internal

// Blocks share.
template <class Team>
ULTRAEP_HOST_DEVICE void Stream(Team& team, Block launched, const StreamArguments& a) {
  namespace in = internal;
  const Block block = in::Capped(launched);
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  const PlanImageView image = view.image();
  PlanOperation& op = view.plan.stream;
  if (!op.active || !image.head().send_count || block.index >= block.count) return;
  StreamOperation operation;
  operation.number = op.number;
  operation.set = op.set;
  operation.self = state.rank;
  operation.replicas = image.replicas();
  operation.mains = a.mains;
  operation.experts_per_rank = state.experts_per_rank;
  operation.sends = image.sends();
  operation.send_count = image.head().send_count;
  operation.transfers = image.transfers();
  operation.claims = image.head().claims;
  StreamWaits<Team> waits(team, state, op, image);
  StreamTally tally;
  auto* const done = view.part<unsigned long long>(view.layout.stream_done_at);
  const bool fine = !team.Elect([&] { return uint64_t{HasFailed(team, state, op.memory)}; }) &&
                    SendWeights(team, waits, SlotsOf(state, op.memory), operation,
                                AsCounter<Team>(&op.next), AsCounter<Team>(done), &tally);
  if (team.rank() != 0) return;
  view.stream_tallies()[block.index] = tally;
  if (!in::AllFine(team, state, block, fine, &op)) return;
  StreamTally sum;
  for (uint32_t b = 0; b < block.count; ++b) sum.Add(view.stream_tallies()[b]);
  in::CountStream(team, state, op, sum, true);
}

// Until the gradients of this rank's slots may be written; zero if asked for. Blocks share.
template <class Team>
ULTRAEP_HOST_DEVICE void Prepare(Team& team, Block block, const PrepareArguments& a) {
  namespace in = internal;
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  const uint64_t start = team.Now();
  // Between operations, the reduction's count of blocks is free for this.
  PlanOperation& reduce = view.plan.reduce;
  enum : uint64_t { kNothing, kFailed, kFree };
  const uint64_t found = team.Elect([&] {
    if (!in::MayReduce(team, state, view, Kernel::kPrepare)) return uint64_t{kNothing};
    return uint64_t{in::AwaitTaken(team, state, view) ? kFree : kFailed};
  });
  if (found == kFree && a.zero) in::ZeroGradients(team, block, state, view);
  team.Sync();
  if (found == kNothing || team.rank() != 0) return;
  if (team.Claim(AsCounter<Team>(&reduce.blocks)) + 1 < block.count) return;
  reduce.blocks = 0;
  view.plan.stream.prepared = !HasFailed(team, state, view.plan.stream.memory);
  team.Add(&state.mailbox.head().totals.prepare_ns, team.Now() - start);
}

// Blocks share.
template <class Team>
ULTRAEP_HOST_DEVICE void Reduce(Team& team, Block launched, const ReduceArguments& a) {
  namespace in = internal;
  const Block block = in::Capped(launched);
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  const PlanImageView image = view.image();
  PlanOperation& op = view.plan.reduce;
  if (!op.active || !image.head().reduction_count || block.index >= block.count) return;
  ReduceOperation operation;
  operation.number = op.number;
  operation.set = op.set;
  operation.type = a.type;
  operation.any_order = a.any_order;
  operation.reductions = image.reductions();
  operation.reduction_count = image.head().reduction_count;
  operation.replicas = image.reduce_replicas();
  operation.replica_count = image.head().reduce_replica_count;
  operation.mains = a.mains;
  ReduceWaits<Team> waits(team, state, op);
  ReduceTally tally;
  auto* const done = view.part<unsigned long long>(view.layout.reduce_done_at);
  const bool fine = !team.Elect([&] { return uint64_t{HasFailed(team, state, op.memory)}; }) &&
                    ReduceGradients(team, waits, SlotsOf(state, op.memory), operation,
                                    AsCounter<Team>(&op.next), AsCounter<Team>(done), &tally);
  if (team.rank() != 0) return;
  view.reduce_tallies()[block.index] = tally;
  if (!in::AllFine(team, state, block, fine, &op)) return;
  ReduceTally sum;
  for (uint32_t b = 0; b < block.count; ++b) sum.Add(view.reduce_tallies()[b]);
  TransferTotals& totals = state.mailbox.head().totals;
  team.Add(&totals.reductions, uint64_t{1});
  team.Add(&totals.replicas, uint64_t{operation.replica_count});
  team.Add(&totals.reduced_bytes, sum.bytes);
  team.Add(&totals.add_ns, sum.add_ns);
  team.Add(&totals.reduce_wait_ns, sum.wait_ns);
  team.Add(&totals.reduce_ns, team.Now() - op.issued_ns);
}

}  // namespace ultraep::device

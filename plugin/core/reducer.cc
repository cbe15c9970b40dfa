#include "plugin/core/reducer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/team.h"

namespace ultraep {

// What an adding thread waits for, and what ends the wait.
class Reducer::Waits {
 public:
  Waits(const Reducer& reducer, const Reduce& reduce) : reducer_(reducer), reduce_(reduce) {}

  uint64_t Gradients(const Replica* replicas, uint64_t pending, bool all) {
    SlotBoard& own = reducer_.boards().slots(reducer_.rank());
    uint64_t here = 0;
    auto look = [&] {
      here = 0;
      for (uint64_t left = pending; left; left &= left - 1)
        if (Seen(replicas[__builtin_ctzll(left)]) == reduce_.number) here |= left & -left;
      return all ? here == pending : here != 0;
    };
    auto lost = [&](const Replica& r) {
      return reducer_.generation_->IsGone(r.rank) ||
             OperationNumber::Passed(Seen(r), reduce_.number);
    };
    auto hopeless = [&] {
      for (uint64_t left = pending & ~here; left; left &= left - 1)
        if (lost(replicas[__builtin_ctzll(left)])) return true;
      return false;
    };
    if (reducer_.Wait(reduce_, own.arrivals, &own.sleeping, look, hopeless))
      return reducer_.failed() ? 0 : here;
    uint64_t missing = pending & ~here;
    for (uint64_t left = missing; left; left &= left - 1)  // the one to name
      if (lost(replicas[__builtin_ctzll(left)])) missing = left & -left;
    failure_ = WhatIsMissing(replicas[__builtin_ctzll(missing)]);
    return 0;
  }

  void Announce(uint32_t rank) { reducer_.Announce(rank); }

  const std::string& failure() const { return failure_; }

 private:
  uint64_t Seen(const Replica& r) const {
    return reducer_.boards()
        .slot_view()
        .gradient_words(r.rank, reduce_.set, r.slot)
        .ready.value.load(std::memory_order_acquire);
  }
  std::string WhatIsMissing(const Replica& r) const {
    const std::string who = "rank " + std::to_string(r.rank);
    const std::string what =
        " the gradient of expert " + std::to_string(r.expert) + " of " + reduce_.text();
    if (OperationNumber::Passed(Seen(r), reduce_.number))
      return who + " is in another operation than the reduction of" + what + kOneOrder;
    return who + (reducer_.generation_->IsGone(r.rank) ? " is gone and" : "") +
           " has not published" + what;
  }

  const Reducer& reducer_;
  const Reduce& reduce_;
  std::string failure_;
};

void Reduce::Work() { reducer->Add(this); }
void Reduce::Finish() { reducer->Finish(this); }

Result Reducer::Prepare(Stream* stream, bool zero, uint64_t timeout_ns) {
  const uint64_t start = NowNs();
  Result result = AwaitSlots(*stream, timeout_ns);
  for (const Replica& r : stream->replicas) {
    if (!result.ok() || r.rank != rank() || !zero) continue;
    ULTRAEP_POINT("gradient:zero");
    std::memset(boards().slot_view().gradient(r.rank, stream->set, r.slot, 0), 0,
                generation_->layout.gradient_stride);
  }
  if (result.ok()) stream->prepared = true;
  const uint64_t spent = NowNs() - start;
  stream->prepare_ns += spent;
  TransferTotals more;
  more.prepare_ns = spent;
  generation_->book->Count(more);
  return result;
}

// Until every slot that the stream uses here has had its last gradient taken.
Result Reducer::AwaitSlots(const Stream& stream, uint64_t timeout_ns) {
  const uint64_t start = NowNs();
  if (failed()) return Tell(Failed(generation_->FailureText()));
  for (const Replica& r : stream.replicas) {
    if (r.rank != rank()) continue;
    const uint64_t spent = NowNs() - start;
    Result taken = AwaitTaken(stream, r, timeout_ns - std::min(spent, timeout_ns));
    if (taken.status == ULTRAEP_TIMEOUT && timeout_ns >= step_timeout_ns()) return Fail(taken.text);
    if (!taken.ok()) return taken;
  }
  return Ok();
}

Result Reducer::AwaitTaken(const Stream& stream, const Replica& replica, uint64_t timeout_ns) {
  const OperationBook::GradientUse use = generation_->book->last_use(stream.set, replica.slot);
  if (!use.number) return Ok();
  const std::atomic<uint64_t>& word =
      boards().slot_view().gradient_words(rank(), stream.set, replica.slot).taken.value;
  auto taken = [&] { return word.load(std::memory_order_acquire) == use.number; };
  auto gone = [&] { return generation_->IsGone(use.home); };
  auto elsewhere = [&] {
    return OperationNumber::Passed(word.load(std::memory_order_acquire), use.number);
  };
  SlotBoard& own = boards().slots(rank());
  WaitFor(own.arrivals, &own.sleeping, generation_->settings.spin_ns,
          DeadlineAfter(NowNs(), std::min(timeout_ns, step_timeout_ns())),
          [&] { return taken() || gone() || elsewhere() || failed(); });
  if (taken()) return Ok();  // also by a home that went afterwards
  const std::string what = "slot " + std::to_string(replica.slot) + " of slot set " +
                           std::to_string(stream.set) + " still holds a gradient for rank " +
                           std::to_string(use.home);
  if (failed())
    return Tell(Failed("a rank could not follow, " + generation_->FailureText() + ": " + what));
  if (elsewhere()) return Fail(what + ", which is in another operation" + kOneOrder);
  if (gone()) return Fail(what + ", which is gone");
  return Timeout(what + ", which has not added it yet");
}

Result Reducer::Start(const Stream& stream, void* const* mains, GradientType type, bool any_order,
                      std::shared_ptr<Reduce>* out) {
  OperationBook& book = *generation_->book;
  const auto issuing = book.Issuing();
  if (failed()) return Tell(Failed(generation_->FailureText()));
  // First what may throw, then what cannot be taken back.
  auto reduce = std::make_shared<Reduce>(this);
  reduce->sequence = stream.sequence;
  reduce->set = stream.set;
  reduce->shape = stream.shape;
  reduce->replicas = stream.replicas;
  reduce->prepare_ns = stream.prepare_ns;
  const SlotLayout& layout = generation_->layout;
  reduce->mains.assign(mains, mains + stream.shape.experts_per_rank() * layout.gradient_count);
  reduce->list.emplace(stream.shape, stream.replicas.data(), uint32_t(stream.replicas.size()),
                       rank());
  ReduceOperation& op = reduce->operation;
  op.set = stream.set;
  op.type = type;
  op.any_order = any_order;
  op.mains = reduce->mains.data();
  reduce->list->Fill(&op);
  Workers::Place place;
  if (op.reduction_count) place = workers_.Prepare(reduce);
  reduce->number = op.number = book.IssueReduction(stream.sequence, stream.set);
  reduce->issued_ns = NowNs();
  Publish(*reduce);
  Enqueue(reduce.get(), std::move(place));
  *out = std::move(reduce);
  return Ok();
}

// Data before flag: everything this rank has added to its slots' gradients happened before.
void Reducer::Publish(const Reduce& reduce) {
  for (const Replica& r : reduce.replicas) {
    if (r.rank != rank()) continue;
    const uint32_t home = reduce.shape.home(r.expert);
    generation_->book->Use(reduce.set, r.slot, {reduce.number, home});
    GradientWords& words = boards().slot_view().gradient_words(rank(), reduce.set, r.slot);
    ULTRAEP_POINT("ready:before");
    words.ready.value.store(reduce.number, std::memory_order_release);
    ULTRAEP_POINT("ready:set");
    Announce(home);
  }
}

void Reducer::Add(Reduce* reduce) {
  SerialTeam team;
  Waits waits(*this, *reduce);
  RunPart(reduce, waits, &reduce->tally, [&](ReduceTally* tally) {
    return ReduceGradients(team, waits, boards().slot_view(), reduce->operation, &reduce->next,
                           &reduce->done, tally);
  });
}

// All threads have come back.
void Reducer::Finish(Reduce* reduce) {
  TransferTotals more;
  {
    std::lock_guard lock(mutex_);
    more.reductions = 1;
    more.replicas = reduce->operation.replica_count;
    more.reduced_bytes = reduce->tally.bytes;
    more.add_ns = reduce->tally.add_ns;
    more.reduce_wait_ns = reduce->tally.wait_ns;
    more.reduce_ns = NowNs() - reduce->issued_ns;
  }
  CountLatencyShared(&generation_->book->statistics().reduce, more.reduce_ns);
  generation_->book->Count(more);
  End(reduce);
}

Result Reducer::Await(Reduce* reduce, uint64_t timeout_ns) {
  if (!AwaitOver(reduce, timeout_ns))
    return Timeout("the gradients of " + reduce->text() + " are not all added");
  return OutcomeOf(*reduce);
}

ReduceTally Reducer::Tally(const Reduce& reduce) {
  std::lock_guard lock(mutex_);
  return reduce.tally;
}

}  // namespace ultraep

#include "plugin/core/streamer.h"

#include <algorithm>
#include <utility>

#include "kernels/team.h"

namespace ultraep {

// What a sending thread waits for, and what ends each wait.
class Streamer::Waits {
 public:
  Waits(const Streamer& streamer, const Stream& stream) : streamer_(streamer), stream_(stream) {}

  bool Accepted(uint32_t destination) {
    const Generation& generation = *streamer_.generation_;
    RankBoard& board = streamer_.boards().rank(destination);
    const std::atomic<uint64_t>& accepts = board.accepts[stream_.set].value;
    auto seen = [&] { return accepts.load(std::memory_order_acquire); };
    auto accepted = [&] { return seen() == stream_.number; };
    auto elsewhere = [&] { return OperationNumber::Passed(seen(), stream_.number); };
    auto gone = [&] { return generation.IsGone(destination); };
    if (streamer_.Wait(stream_, board.accept_pulse, nullptr, accepted,
                       [&] { return gone() || elsewhere(); }))
      return !streamer_.failed();  // rule 7: not even one transfer more
    failure_ = "rank " + std::to_string(destination) +
               (elsewhere() ? " is in another operation than"
                            : (gone() ? " is gone and has not issued" : " has not issued")) +
               " the stream of " + stream_.text() + (elsewhere() ? kOneOrder : "");
    return false;
  }

  bool Chunk(uint32_t transfer, uint64_t chunk) {
    SlotBoard& own = streamer_.boards().slots(streamer_.rank());
    const std::atomic<uint64_t>& flag = streamer_.boards().chunk_flag(
        streamer_.rank(), stream_.set, stream_.replicas[transfer].slot, chunk);
    auto here = [&] { return flag.load(std::memory_order_acquire) == stream_.number; };
    auto gone = [&] { return streamer_.GoneUpstream(stream_, transfer) >= 0; };
    if (streamer_.Wait(stream_, own.arrivals, &own.sleeping, here, gone)) return true;
    failure_ = streamer_.WhatIsMissing(stream_, transfer);
    return false;
  }

  void Announce(uint32_t rank) { streamer_.Announce(rank); }

  const std::string& failure() const { return failure_; }

 private:
  const Streamer& streamer_;
  const Stream& stream_;
  std::string failure_;
};

void Stream::Work() { streamer->Send(this); }
void Stream::Finish() { streamer->End(this); }

Result Streamer::Start(const RecordedPlan& plan, bool restore, uint32_t set,
                       const void* const* mains, std::shared_ptr<Stream>* out) {
  OperationBook& book = *generation_->book;
  const auto issuing = book.Issuing();
  const uint64_t sequence = plan.header.sequence;
  // First: after a failure nobody has released anything.
  if (failed()) return Tell(Failed(generation_->FailureText()));
  if (Result wrong = book.CheckStream(sequence, restore, set); !wrong.ok()) return wrong;
  // First what may throw, then what cannot be taken back.
  const SlotLayout& layout = generation_->layout;
  auto stream = std::make_shared<Stream>(this);
  stream->sequence = sequence;
  stream->set = set;
  stream->shape = plan.shape;
  stream->replicas = plan.replicas;
  stream->mains.assign(mains, mains + plan.shape.experts_per_rank() * layout.shard_count);
  stream->queue.emplace(plan.shape, stream->replicas.data(), uint32_t(stream->replicas.size()),
                        rank(), layout.chunks, workers_.count());
  StreamOperation& op = stream->operation;
  op.set = set;
  op.self = rank();
  op.replicas = stream->replicas.data();
  op.mains = stream->mains.data();
  op.experts_per_rank = plan.shape.experts_per_rank();
  stream->queue->Fill(&op);
  stream->done = std::make_unique<std::atomic<uint64_t>[]>(op.send_count);
  Workers::Place place;
  if (op.send_count) place = workers_.Prepare(stream);
  stream->number = op.number = book.IssueStream(sequence, restore, set);
  stream->issued_ns = NowNs();
  RankBoard& own = boards().rank(rank());
  // Everything this rank read from the set and sent from it happened before.
  ULTRAEP_POINT("accepts:before");
  own.accepts[set].value.store(stream->number, std::memory_order_release);
  ULTRAEP_POINT("accepts:set");
  PulseAndWake(own.accept_pulse);
  Enqueue(stream.get(), std::move(place));
  *out = std::move(stream);
  return Ok();
}

void Streamer::Send(Stream* stream) {
  SerialTeam team;
  Waits waits(*this, *stream);
  RunPart(stream, waits, &stream->tally, [&](StreamTally* tally) {
    return SendWeights(team, waits, boards().slot_view(), stream->operation, &stream->next,
                       stream->done.get(), tally);
  });
}

int64_t Streamer::GoneUpstream(const Stream& stream, uint32_t transfer) const {
  for (int64_t t = transfer; t >= 0; t = stream.replicas[size_t(t)].parent) {
    const uint32_t sender = SenderOf(stream.shape, stream.replicas.data(), uint32_t(t));
    if (generation_->IsGone(sender)) return sender;
  }
  return -1;
}

std::string Streamer::WhatIsMissing(const Stream& stream, uint32_t transfer) const {
  const int64_t gone = GoneUpstream(stream, transfer);
  const uint32_t sender = SenderOf(stream.shape, stream.replicas.data(), transfer);
  return "expert " + std::to_string(stream.replicas[transfer].expert) + " of " + stream.text() +
         " has not arrived: " +
         (gone >= 0 ? "rank " + std::to_string(gone) + " is gone"
                    : "rank " + std::to_string(sender) + " has not sent it");
}

Result Streamer::AwaitArrival(Stream* stream, uint64_t timeout_ns) {
  {
    std::lock_guard lock(mutex_);
    if (stream->released) return Invalid("the plan's slots are released already");
  }
  const SlotView slots = boards().slot_view();
  SlotBoard& own = boards().slots(rank());
  const auto all = uint32_t(stream->replicas.size());
  auto first_missing = [&] {
    return FirstMissingTransfer(slots, stream->replicas.data(), all, rank(), stream->set,
                                stream->number);
  };
  uint32_t missing = first_missing();
  bool gone = false;
  auto done = [&] {
    // Whether somebody is gone is read before the flags: what a rank sent before it went counts.
    const uint32_t before = missing;
    const bool upstream = before < all && GoneUpstream(*stream, before) >= 0;
    missing = first_missing();
    gone = upstream && missing == before;
    return missing == all || gone || failed();
  };
  const uint64_t end = DeadlineAfter(stream->issued_ns, step_timeout_ns());
  WaitFor(own.arrivals, &own.sleeping, generation_->settings.spin_ns,
          std::min(DeadlineAfter(NowNs(), timeout_ns), end), done);
  if (missing == all) {
    std::lock_guard lock(mutex_);
    if (!stream->arrived_ns) stream->arrived_ns = NowNs();
    return Ok();
  }
  const std::string what = WhatIsMissing(*stream, missing);
  if (failed())
    return Tell(Failed("a rank could not follow, " + generation_->FailureText() + ": " + what));
  if (gone || NowNs() >= end) return Fail(what);
  return Timeout(what);
}

Result Streamer::Release(Stream* stream, uint64_t timeout_ns) {
  const uint64_t start = NowNs();
  {
    std::lock_guard lock(mutex_);
    if (stream->released) return Ok();
  }
  if (!AwaitOver(stream, timeout_ns))
    return Timeout("own sends of " + stream->text() + " are not done");
  Result done = OutcomeOf(*stream);
  if (done.ok()) {
    const uint64_t spent = NowNs() - start;
    done = AwaitArrival(stream, timeout_ns - std::min(spent, timeout_ns));
  }
  if (done.status == ULTRAEP_TIMEOUT) return done;
  std::lock_guard lock(mutex_);
  stream->released = true;
  if (!done.ok()) return done;
  generation_->book->Release(stream->set);
  Count(*stream);
  return Ok();
}

// Under the mutex.
void Streamer::Count(const Stream& stream) const {
  TransferTotals more;
  more.transfers = stream.tally.transfers;
  more.sent_bytes = stream.tally.bytes;
  more.relayed_bytes = stream.tally.relayed_bytes;
  more.copy_ns = stream.tally.copy_ns;
  more.send_wait_ns = stream.tally.wait_ns;
  more.sends = stream.operation.send_count > 0;
  if (more.sends) more.send_ns = stream.over_ns - stream.issued_ns;
  for (const Replica& r : stream.replicas)
    if (r.rank == rank()) more.arrivals = 1;
  if (more.arrivals) {
    more.arrive_ns = stream.arrived_ns - stream.issued_ns;
    CountLatencyShared(&generation_->book->statistics().stream, more.arrive_ns);
  }
  generation_->book->Count(more);
}

StreamTally Streamer::Tally(const Stream& stream) {
  std::lock_guard lock(mutex_);
  return stream.tally;
}

}  // namespace ultraep

#include "plugin/core/streamer.h"

#include <chrono>
#include <utility>

#include "plugin/core/quiet_thread.h"

namespace ultraep {
namespace {

std::string Operation(const StreamOperation& op) {
  return "step " + std::to_string(op.sequence) + " on slot set " + std::to_string(op.set);
}

}  // namespace

// What the stream thread waits for, and what ends each wait: the group has failed, the awaited rank
// is proven gone, the step timeout.
class Streamer::Waits : public StreamWaits {
 public:
  Waits(Streamer* streamer, const StreamOperation& op) : streamer_(streamer), op_(op) {}

  bool Accepted(uint32_t destination, uint32_t set, uint64_t number) override {
    RankBoard& board = generation().boards.rank(destination);
    auto seen = [&] { return board.accepts[set].value.load(std::memory_order_acquire); };
    auto accepted = [&] { return seen() == number; };
    // As many operations as here or more, yet another number: it will never come to this one.
    auto elsewhere = [&] {
      const uint64_t there = seen();
      return there != number && OperationNumber::Count(there) >= OperationNumber::Count(number);
    };
    auto gone = [&] { return generation().IsGone(destination); };
    if (Wait(board.accept_pulse, nullptr, accepted, [&] { return gone() || elsewhere(); }))
      return !generation().failed();  // rule 7: not even one transfer more
    failure_ = "rank " + std::to_string(destination) +
               (elsewhere() ? " is in another operation than"
                            : (gone() ? " is gone and has not issued" : " has not issued")) +
               " the stream of " + Operation(op_) +
               (elsewhere() ? ": all ranks must stream and restore in one order" : "");
    return false;
  }

  bool Chunk(const std::atomic<uint64_t>& flag, uint64_t number, uint32_t index) override {
    SlotBoard& own = generation().boards.slots(generation().rank);
    auto here = [&] { return flag.load(std::memory_order_acquire) == number; };
    auto gone = [&] { return streamer_->GoneUpstream(op_, index) >= 0; };
    if (Wait(own.arrivals, &own.sleeping, here, gone)) return true;
    failure_ = streamer_->WhatIsMissing(op_, index);
    return false;
  }

  const std::string& failure() const { return failure_; }

 private:
  Generation& generation() { return *streamer_->generation_; }

  template <class Done, class Gone>
  bool Wait(const Pulse& pulse, Word* sleeping, Done done, Gone gone) {
    const RankClocks& clocks = generation().clocks;
    WaitFor(pulse, sleeping, clocks.spin_ns, DeadlineAfter(NowNs(), clocks.step_timeout_ns), [&] {
      return done() || gone() || generation().failed() ||
             streamer_->stopped_.load(std::memory_order_relaxed);
    });
    return done();  // once more: what a rank did before it went counts
  }

  Streamer* const streamer_;
  const StreamOperation& op_;
  std::string failure_;
};

Streamer::Streamer(Generation* generation)
    : generation_(generation), uses_(generation->layout.config.slot_sets) {}

Streamer::~Streamer() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Result Streamer::Start(const RecordedPlan& plan, bool restore, uint32_t set,
                       const void* const* mains, std::shared_ptr<Stream>* out) {
  if (set >= uses_.size())
    return Invalid("slot_set is " + std::to_string(set) + ", the group has " +
                   std::to_string(uses_.size()));
  auto stream = std::make_shared<Stream>();
  stream->replicas = plan.replicas;
  const uint64_t shards = generation_->layout.config.shard_count;
  stream->mains.assign(mains, mains + plan.shape.experts_per_rank() * shards);
  std::lock_guard lock(mutex_);
  const uint64_t sequence = plan.header.sequence;
  if (!restore && sequence < next_forward_)
    return Invalid("step " + std::to_string(sequence) + " cannot be streamed after step " +
                   std::to_string(next_forward_ - 1) + ": streams go in the order of their steps");
  if (generation_->failed()) return Tell(Failed("the generation has failed"));
  if (!uses_[set].released)
    return Invalid("slot set " + std::to_string(set) + " is in use by the plan of step " +
                   std::to_string(uses_[set].sequence) +
                   ": release it first, or join with more slot_sets for steps that overlap");
  // First what may throw, then what cannot be taken back.
  if (!thread_.joinable()) thread_ = StartQuietThread("ultraep-stream", [this] { Run(); });
  queue_.push_back(stream);
  if (!restore) next_forward_ = sequence + 1;
  history_.Add(sequence << 1 | restore);
  history_.Add(set);
  stream->operation.number = OperationNumber::Make(++count_, history_.value());
  stream->operation.sequence = sequence;
  stream->operation.set = set;
  stream->operation.shape = plan.shape;
  stream->operation.replicas = stream->replicas;
  stream->operation.mains = stream->mains.data();
  uses_[set] = {sequence, false};
  RankBoard& own = generation_->boards.rank(generation_->rank);
  // Everything this rank read from the set and sent from it happened before.
  ULTRAEP_POINT("accepts:before");
  own.accepts[set].value.store(stream->operation.number, std::memory_order_release);
  ULTRAEP_POINT("accepts:set");
  PulseAndWake(own.accept_pulse);
  *out = std::move(stream);
  changed_.notify_all();
  return Ok();
}

void Streamer::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopped_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::shared_ptr<Stream> stream = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    Waits waits(this, stream->operation);
    const bool sent = !generation_->failed() &&  // rule 7: never write there again
                      SendWeights(generation_->boards, generation_->rank, stream->operation, &waits,
                                  &stream->tally);
    if (!sent) generation_->Fail();
    lock.lock();
    stream->sent = true;
    if (!sent)
      stream->failure = waits.failure().empty() ? "the generation has failed" : waits.failure();
    changed_.notify_all();
  }
}

Result Streamer::Fail(std::string text) {
  generation_->Fail();
  return Tell(Failed(std::move(text)));
}

// The caller learns of the failure by this result: its next step need not say it again.
Result Streamer::Tell(Result result) {
  generation_->failure_told = true;
  return result;
}

// A rank on the transfer's way from the main copy that is proven gone, or -1.
int64_t Streamer::GoneUpstream(const StreamOperation& op, uint32_t transfer) const {
  for (int64_t t = transfer; t >= 0; t = op.replicas[t].parent) {
    const uint32_t rank = SenderOf(op.shape, op.replicas.data(), uint32_t(t));
    if (generation_->IsGone(rank)) return rank;
  }
  return -1;
}

std::string Streamer::WhatIsMissing(const StreamOperation& op, uint32_t transfer) const {
  const int64_t gone = GoneUpstream(op, transfer);
  const uint32_t sender = SenderOf(op.shape, op.replicas.data(), transfer);
  return "expert " + std::to_string(op.replicas[transfer].expert) + " of " + Operation(op) +
         " has not arrived: " +
         (gone >= 0 ? "rank " + std::to_string(gone) + " is gone"
                    : "rank " + std::to_string(sender) + " has not sent it");
}

Result Streamer::AwaitArrival(const Stream& stream, uint64_t timeout_ns, bool give_up) {
  const StreamOperation& op = stream.operation;
  {
    std::lock_guard lock(mutex_);
    if (stream.released) return Invalid("the plan's slots are released already");
  }
  const Boards& b = generation_->boards;
  SlotBoard& own = b.slots(generation_->rank);
  const uint32_t all = uint32_t(op.replicas.size());
  uint32_t missing = FirstMissingTransfer(b, generation_->rank, op);
  bool gone = false;
  auto done = [&] {
    // Whether somebody is gone is read before the flags: what a rank sent before it went counts.
    const uint32_t before = missing;
    const bool upstream = before < all && GoneUpstream(op, before) >= 0;
    missing = FirstMissingTransfer(b, generation_->rank, op);
    gone = upstream && missing == before;
    return missing == all || gone || generation_->failed();
  };
  const uint64_t limit = generation_->clocks.step_timeout_ns;
  WaitFor(own.arrivals, &own.sleeping, generation_->clocks.spin_ns,
          DeadlineAfter(NowNs(), std::min(timeout_ns, limit)), done);
  if (missing == all) return Ok();
  const std::string what = WhatIsMissing(op, missing);
  if (generation_->failed())
    return Tell(Failed("a rank could not follow, the generation has failed: " + what));
  if (gone || give_up) return Fail(what);
  return Timeout(what);
}

Result Streamer::Release(Stream* stream, uint64_t timeout_ns) {
  const StreamOperation& op = stream->operation;
  const uint64_t start = NowNs();
  {
    std::unique_lock lock(mutex_);
    if (stream->released) return Ok();
    const auto limit = std::chrono::nanoseconds(std::min<uint64_t>(timeout_ns, INT64_MAX / 2));
    if (!changed_.wait_for(lock, limit, [&] { return stream->sent; }))
      return Timeout("own sends of " + Operation(op) + " are not done");
    if (!stream->failure.empty()) {
      stream->released = true;
      return Tell(Failed(stream->failure));
    }
  }
  const uint64_t spent = NowNs() - start;
  Result arrived = AwaitArrival(*stream, timeout_ns - std::min(spent, timeout_ns),
                                timeout_ns >= generation_->clocks.step_timeout_ns);
  if (arrived.status == ULTRAEP_TIMEOUT) return arrived;
  std::lock_guard lock(mutex_);
  stream->released = true;
  if (!arrived.ok()) return arrived;
  uses_[op.set].released = true;
  return Ok();
}

StreamTally Streamer::Tally(const Stream& stream) {
  std::lock_guard lock(mutex_);
  return stream.tally;
}

}  // namespace ultraep

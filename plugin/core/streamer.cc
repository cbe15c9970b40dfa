#include "plugin/core/streamer.h"

#include <chrono>
#include <utility>

#include "plugin/core/quiet_thread.h"

namespace ultraep {
namespace {

bool HasFailed(const Boards& boards) { return LoadGate(boards.gate()).state == GateState::kFailed; }

std::string Operation(const StreamOperation& op) {
  return "step " + std::to_string(op.number - 1) + " on slot set " + std::to_string(op.set);
}

}  // namespace

// What the stream thread waits for, and what ends each wait: the group has failed, the awaited rank
// is proven gone, the step timeout.
class Streamer::Waits : public StreamWaits {
 public:
  Waits(Streamer* streamer, const StreamOperation& op) : streamer_(streamer), op_(op) {}

  bool Released(uint32_t destination, uint32_t set, uint64_t number) override {
    RankBoard& board = generation().boards.rank(destination);
    auto released = [&] {
      return board.released[set].value.load(std::memory_order_acquire) >= number;
    };
    auto gone = [&] { return generation().IsGone(destination); };
    if (Wait(board.release_pulse, nullptr, released, gone)) return true;
    failure_ = "rank " + std::to_string(destination) + (gone() ? " is gone and" : "") +
               " has not released the slots for " + Operation(op_);
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
      return done() || gone() || HasFailed(generation().boards) ||
             streamer_->stopped_.load(std::memory_order_relaxed);
    });
    return done();  // once more: what a rank did before it went counts
  }

  Streamer* const streamer_;
  const StreamOperation& op_;
  std::string failure_;
};

Streamer::Streamer(Generation* generation)
    : generation_(generation),
      operations_(generation->layout.config.slot_sets),
      released_(generation->layout.config.slot_sets) {}

Streamer::~Streamer() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Result Streamer::Start(const RecordedPlan& plan, uint32_t set, const void* const* mains,
                       std::shared_ptr<Stream>* out) {
  if (set >= operations_.size())
    return Invalid("slot_set is " + std::to_string(set) + ", the group has " +
                   std::to_string(operations_.size()));
  auto stream = std::make_shared<Stream>();
  stream->replicas = plan.replicas;
  const uint64_t shards = generation_->layout.config.shard_count;
  stream->mains.assign(mains, mains + plan.shape.experts_per_rank() * shards);
  std::lock_guard lock(mutex_);
  const uint64_t number = plan.header.sequence + 1;
  if (number <= last_)
    return Invalid("step " + std::to_string(plan.header.sequence) +
                   " cannot be streamed after step " + std::to_string(last_ - 1) +
                   ": streams go in the order of their steps");
  if (released_[set] != operations_[set])
    return Invalid("slot set " + std::to_string(set) + " is in use by the plan of step " +
                   std::to_string(operations_[set] - 1) +
                   ": release it first, or join with more slot_sets for steps that overlap");
  // First what may throw, then what cannot be taken back.
  if (!thread_.joinable()) thread_ = StartQuietThread("ultraep-stream", [this] { Run(); });
  queue_.push_back(stream);
  stream->operation.number = number;
  stream->operation.previous = operations_[set];
  stream->operation.set = set;
  stream->operation.shape = plan.shape;
  stream->operation.replicas = stream->replicas;
  stream->operation.mains = stream->mains.data();
  operations_[set] = last_ = number;
  *out = std::move(stream);
  changed_.notify_all();
  return Ok();
}

void Streamer::Abandon(const RecordedPlan& plan) {
  Fail("the plan of step " + std::to_string(plan.header.sequence) + " was never streamed");
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
    const bool sent = !HasFailed(generation_->boards) &&  // rule 7: never write there again
                      SendWeights(generation_->boards, generation_->rank, stream->operation, &waits,
                                  &stream->tally);
    if (!sent) {
      FailGate(generation_->boards.gate());
      generation_->WakeMembers();
    }
    lock.lock();
    stream->sent = true;
    if (!sent) stream->failure = waits.failure().empty() ? "the group has failed" : waits.failure();
    changed_.notify_all();
  }
}

Result Streamer::Fail(std::string text) {
  FailGate(generation_->boards.gate());
  generation_->WakeMembers();
  return Failed(std::move(text));
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

Result Streamer::AwaitArrival(const Stream& stream, uint64_t timeout_ns) {
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
    return missing == all || gone || HasFailed(b);
  };
  const uint64_t limit = generation_->clocks.step_timeout_ns;
  WaitFor(own.arrivals, &own.sleeping, generation_->clocks.spin_ns,
          DeadlineAfter(NowNs(), std::min(timeout_ns, limit)), done);
  if (missing == all) return Ok();
  const std::string what = WhatIsMissing(op, missing);
  if (HasFailed(b)) return Failed("a rank could not follow, the group has failed: " + what);
  if (gone || timeout_ns >= limit) return Fail(what);
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
      return Failed(stream->failure);
    }
  }
  const uint64_t spent = NowNs() - start;
  Result arrived = AwaitArrival(*stream, timeout_ns - std::min(spent, timeout_ns));
  if (arrived.status == ULTRAEP_TIMEOUT) return arrived;
  std::lock_guard lock(mutex_);
  stream->released = true;
  if (!arrived.ok()) return arrived;
  released_[op.set] = op.number;
  RankBoard& own = generation_->boards.rank(generation_->rank);
  // Everything this rank read from the set and sent for the operation happened before.
  own.released[op.set].value.store(op.number, std::memory_order_release);
  PulseAndWake(own.release_pulse);
  return Ok();
}

Result Streamer::Tally(const Stream& stream, StreamTally* tally) {
  std::lock_guard lock(mutex_);
  if (!stream.released) return Invalid("the plan is not released yet: its sends may still run");
  *tally = stream.tally;
  return Ok();
}

}  // namespace ultraep

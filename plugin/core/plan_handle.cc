#include "plugin/core/plan_handle.h"

#include <algorithm>
#include <string>
#include <utility>

#include "plugin/core/forks.h"

using namespace ultraep;

ultraep_plan::ultraep_plan(ResolvedStep step, const GroupConfig& config, uint32_t source,
                           std::shared_ptr<MemorySwitch> memory)
    : forks_(ForkCount()),
      step_(std::move(step)),
      config_(config),
      source_(source),
      memory_(std::move(memory)),
      router_(step_.plan, source, step_.row.data()) {}

// A plan freed without release would stop its group: nobody could store into this rank's slots. One
// that was never streamed already has: its replicas elsewhere wait for this rank's experts. No call
// reports that, so the next step does. A later generation is not its concern.
ultraep_plan::~ultraep_plan() {
  if (streamed_) {
    Release(step_timeout_ns());
  } else if (Moves()) {
    for (const auto& generation : memory_->held())
      if (generation->id == step_.plan.header.generation) generation->Fail();
  }
}

bool ultraep_plan::forked() const { return ForkCount() != forks_; }

// Do weights travel for this plan?
bool ultraep_plan::Moves() const { return !step_.plan.replicas.empty() && config_.shard_count > 0; }

void ultraep_plan::Free() {
  if (forked()) return;  // the parent's to release
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

ultraep_plan::Operation ultraep_plan::operation() const {
  std::lock_guard lock(mutex_);
  return operation_;
}

ultraep_plan_info ultraep_plan::Info() const {
  ultraep_plan_info info{};
  info.verdict = step_.verdict;
  info.layer = step_.layer;
  info.microbatch = step_.microbatch;
  info.replica_count = uint32_t(step_.plan.replicas.size());
  info.sequence = step_.sequence;
  if (step_.verdict == ULTRAEP_PLAN) {
    const PlanHeader& h = step_.plan.header;
    info.total_tokens = h.certificate.total;
    info.peak_before = h.certificate.peak_before;
    info.peak = h.certificate.peak;
    info.lower_bound = h.certificate.lower_bound;
    info.solve_ns = h.solve_ns;
  }
  info.handle_bytes = sizeof *this + step_.row.capacity() * sizeof(step_.row[0]) +
                      step_.plan.replicas.capacity() * sizeof(Replica) +
                      step_.plan.columns.capacity() * sizeof(step_.plan.columns[0]) +
                      step_.plan.column_experts.capacity() * sizeof(step_.plan.column_experts[0]) +
                      router_.bytes();
  std::lock_guard lock(mutex_);
  info.operation = OperationNumber::Count(last_number_);
  info.slot_set = last_set_;
  return info;
}

Result ultraep_plan::Replicas(ultraep_replica* out, uint32_t capacity) const {
  const uint32_t count = std::min<uint32_t>(capacity, uint32_t(step_.plan.replicas.size()));
  for (uint32_t i = 0; i < count; ++i) {
    const Replica& r = step_.plan.replicas[i];
    out[i] = {r.expert, r.rank, r.slot, r.parent, r.tokens};
  }
  return Ok();
}

Result ultraep_plan::Route(const int32_t* ids, uint64_t tokens, uint32_t top_k,
                           int32_t* physical) const {
  std::string wrong = router_.Route(ids, tokens, top_k, physical);
  return wrong.empty() ? Ok() : Invalid("step " + std::to_string(step_.sequence) + ": " + wrong);
}

// The first stream is the forward one, any further one a restore: for backward or recompute. Both
// use the memory of this moment, which may be a later generation's than the plan's.
Result ultraep_plan::Stream(uint32_t slot_set, const void* const* mains) {
  if (!Moves()) return Ok();
  for (uint64_t i = 0; i < uint64_t{config_.experts / config_.ranks} * config_.shard_count; ++i)
    if (!mains || !mains[i]) return Invalid("main_weights[" + std::to_string(i) + "] is NULL");
  std::lock_guard lock(mutex_);
  if (operation_.stream)
    return Invalid("the plan's weights are streamed already; release them before a restore");
  Operation next{memory_->current(), nullptr};
  if (!next.generation)
    return Invalid("the rank has left its group: its plans' weights can no longer be streamed");
  Result result =
      next.generation->streamer->Start(step_.plan, streamed_, slot_set, mains, &next.stream);
  if (result.status == ULTRAEP_INVALID) return result;
  streamed_ = true;  // it cannot follow: said, so its end need not say it again
  if (!result.ok()) return result;
  last_number_ = next.stream->operation.number;
  last_set_ = slot_set;
  operation_ = std::move(next);
  return result;
}

Result ultraep_plan::AwaitWeights(uint64_t timeout_ns) {
  if (!Moves()) return Ok();
  const Operation now = operation();
  if (!now.stream) return Invalid("the plan's weights are not streamed, or released already");
  return now.generation->streamer->AwaitArrival(*now.stream, timeout_ns);
}

Result ultraep_plan::Slot(uint32_t slot, uint32_t* expert, const void** shards) const {
  if (slot >= step_.plan.shape.slots)
    return Invalid("slot is " + std::to_string(slot) + ", the group has " +
                   std::to_string(step_.plan.shape.slots) + " per rank");
  *expert = UINT32_MAX;
  for (const Replica& r : step_.plan.replicas) {
    if (r.rank != source_ || r.slot != slot) continue;
    const Operation now = operation();
    if (!now.stream && config_.shard_count)
      return Invalid("the plan's weights are not streamed, or released already");
    *expert = r.expert;
    for (uint32_t i = 0; i < config_.shard_count; ++i)
      shards[i] = now.generation->boards.shard(source_, now.stream->operation.set, slot, i);
    return Ok();
  }
  return Ok();
}

Result ultraep_plan::Release(uint64_t timeout_ns) {
  const Operation now = operation();
  if (!now.stream) return Ok();
  Result result = now.generation->streamer->Release(now.stream.get(), timeout_ns);
  if (result.status == ULTRAEP_TIMEOUT) return result;
  const StreamTally tally = now.generation->streamer->Tally(*now.stream);
  std::lock_guard lock(mutex_);
  tally_ = tally;
  operation_ = {};  // a plan that is kept for backward pins no slots
  return result;
}

Result ultraep_plan::Stats(ultraep_stream_stats* stats) const {
  std::lock_guard lock(mutex_);
  if (operation_.stream) return Invalid("the plan is not released yet: its sends may still run");
  *stats = {tally_.bytes, tally_.copy_ns, tally_.wait_ns, tally_.relayed_bytes, tally_.transfers};
  return Ok();
}

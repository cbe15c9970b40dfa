#include "plugin/core/plan_handle.h"

#include <algorithm>
#include <new>
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
      router_(step_.plan, source, step_.row.data()),
      owes_(Moves()) {}

// Weights and main gradients are the framework's again once this returns. A plan freed without
// release would stop its group: nobody could store into this rank's slots.
ultraep_plan::~ultraep_plan() {
  try {
    FailWhatItOwes();
  } catch (const std::bad_alloc&) {  // then the peers' step timeout must do
  }
  if (reducing_.reduce)
    reducing_.generation->reducer->AwaitOver(reducing_.reduce.get(), UINT64_MAX);
  if (!streaming_.stream) return;
  try {
    Release(step_timeout_ns());  // waits for the sends before it needs memory
  } catch (const std::bad_alloc&) {
    streaming_.generation->Fail();
  }
}

// Peers wait for this rank's experts or gradients. No call reports that, so the next step does. A
// later generation is not its concern.
void ultraep_plan::FailWhatItOwes() {
  if (!owes_) return;
  owes_ = false;
  if (owes_in_) return owes_in_->Fail();
  for (const auto& generation : memory_->held())
    if (generation->id == step_.plan.header.generation) generation->Fail();
}

bool ultraep_plan::forked() const { return ForkCount() != forks_; }

// Do weights travel for this plan?
bool ultraep_plan::Moves() const { return !step_.plan.replicas.empty() && config_.shard_count > 0; }

void ultraep_plan::Free() {
  if (forked()) return;  // the parent's to release
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

ultraep_plan::Streaming ultraep_plan::streaming() const {
  std::lock_guard lock(mutex_);
  return streaming_;
}

ultraep_plan::Reducing ultraep_plan::reducing() const {
  std::lock_guard lock(mutex_);
  return reducing_;
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
  const uint64_t start = NowNs();
  std::string wrong = router_.Route(ids, tokens, top_k, physical);
  if (!wrong.empty()) return Invalid("step " + std::to_string(step_.sequence) + ": " + wrong);
  if (const auto generation = memory_->current())
    CountLatencyShared(&generation->book->statistics().route, NowNs() - start);
  return Ok();
}

// The first stream is the forward one, any further one a restore: for backward or recompute. Both
// use the memory of this moment, which may be a later generation's than the plan's.
Result ultraep_plan::Stream(uint32_t slot_set, const void* const* mains) {
  if (!Moves()) return Ok();
  for (uint64_t i = 0; i < uint64_t{config_.experts / config_.ranks} * config_.shard_count; ++i)
    if (!mains || !mains[i]) return Invalid("main_weights[" + std::to_string(i) + "] is NULL");
  std::lock_guard lock(mutex_);
  if (streaming_.stream)
    return Invalid("the plan's weights are streamed already; release them before a restore");
  Streaming next{memory_->current(), nullptr};
  if (!next.generation)
    return Invalid("the rank has left its group: its plans' weights can no longer be streamed");
  const bool owed = std::exchange(owes_, true);
  const auto owed_in = std::exchange(owes_in_, streamed_ ? next.generation : nullptr);
  Result result =
      next.generation->streamer->Start(step_.plan, streamed_, slot_set, mains, &next.stream);
  const bool invalid = result.status == ULTRAEP_INVALID;
  owes_ = invalid && owed;
  owes_in_ = invalid ? owed_in : nullptr;
  if (invalid) return result;
  streamed_ = true;
  lost_ = result.text;
  if (!result.ok()) return result;
  last_number_ = next.stream->number;
  last_set_ = slot_set;
  streaming_ = std::move(next);
  return result;
}

Result ultraep_plan::AwaitWeights(uint64_t timeout_ns) {
  if (!Moves()) return Ok();
  const Streaming now = streaming();
  if (!now.stream) return Invalid("the plan's weights are not streamed, or released already");
  return now.generation->streamer->AwaitArrival(now.stream.get(), timeout_ns);
}

Result ultraep_plan::InSlot(uint32_t slot, const Replica** replica) const {
  if (slot >= config_.slots)
    return Invalid("slot is " + std::to_string(slot) + ", the group has " +
                   std::to_string(config_.slots) + " per rank");
  *replica = nullptr;
  for (const Replica& r : step_.plan.replicas)
    if (r.rank == source_ && r.slot == slot) *replica = &r;
  return Ok();
}

Result ultraep_plan::Slot(uint32_t slot, uint32_t* expert, const void** shards) const {
  const Replica* replica = nullptr;
  if (Result wrong = InSlot(slot, &replica); !wrong.ok()) return wrong;
  *expert = UINT32_MAX;
  if (!replica) return Ok();
  const Streaming now = streaming();
  if (!now.stream && config_.shard_count)
    return Invalid("the plan's weights are not streamed, or released already");
  *expert = replica->expert;
  for (uint32_t i = 0; i < config_.shard_count; ++i)
    shards[i] = now.generation->boards.shard(source_, now.stream->set, slot, i);
  return Ok();
}

Result ultraep_plan::CheckGradients() const {
  if (!config_.gradient_count)
    return Invalid(
        "the group has no gradients: join with training, gradient_count and "
        "gradient_bytes");
  return Ok();
}

Result ultraep_plan::PrepareGradients(bool zero, uint64_t timeout_ns) {
  if (Result wrong = CheckGradients(); !wrong.ok() || !Moves()) return wrong;
  const Streaming now = streaming();
  if (!now.stream) return Invalid("stream the plan's weights first: they say which slots are used");
  if (reducing().reduce)
    return Invalid("the plan's gradients are being reduced; await them before a next reduction");
  if (now.stream->prepared)
    return Invalid("the plan's gradients are prepared already: what was added would be lost");
  {
    std::lock_guard lock(mutex_);
    owes_ = true;  // homes will wait for the reduction
    owes_in_ = now.generation;
  }
  Result result = now.generation->reducer->Prepare(now.stream.get(), zero, timeout_ns);
  std::lock_guard lock(mutex_);
  if (result.status == ULTRAEP_FAILED) {
    owes_ = false;
    owes_in_ = nullptr;
    lost_ = result.text;
  }
  return result;
}

Result ultraep_plan::Gradient(uint32_t slot, uint32_t* expert, float** parts) const {
  if (Result wrong = CheckGradients(); !wrong.ok()) return wrong;
  const Replica* replica = nullptr;
  if (Result wrong = InSlot(slot, &replica); !wrong.ok()) return wrong;
  *expert = UINT32_MAX;
  if (!replica) return Ok();
  const Streaming now = streaming();
  if (!now.stream || !now.stream->prepared)
    return Invalid("the plan's gradients are not prepared, or reduced already");
  *expert = replica->expert;
  for (uint32_t i = 0; i < config_.gradient_count; ++i)
    parts[i] = now.generation->boards.slot_view().gradient(source_, now.stream->set, slot, i);
  return Ok();
}

Result ultraep_plan::ReduceGradients(void* const* mains, GradientType type, bool any_order) {
  if (Result wrong = CheckGradients(); !wrong.ok() || !Moves()) return wrong;
  const uint64_t align = type == GradientType::kFloat32 ? sizeof(float) : sizeof(Bfloat16);
  for (uint64_t i = 0; i < uint64_t{config_.experts / config_.ranks} * config_.gradient_count; ++i)
    if (!mains || !mains[i] || reinterpret_cast<uintptr_t>(mains[i]) % align)
      return Invalid("main_gradients[" + std::to_string(i) + "] is NULL or not on " +
                     std::to_string(align) + " bytes");
  std::lock_guard lock(mutex_);
  if (reducing_.reduce) return Invalid("the plan's gradients are being reduced already");
  if (!streaming_.stream || !streaming_.stream->prepared)
    return Invalid(
        "prepare the plan's gradients first, after its weights were streamed and before "
        "they are released");
  Reducing next{streaming_.generation, nullptr};
  Result result =
      next.generation->reducer->Start(*streaming_.stream, mains, type, any_order, &next.reduce);
  owes_ = false;
  owes_in_ = nullptr;
  streaming_.stream->prepared = false;
  streaming_.stream->prepare_ns = 0;
  if (!result.ok()) {
    lost_ = result.text;
    return result;
  }
  last_number_ = next.reduce->number;
  reducing_ = std::move(next);
  return result;
}

// What the plan lost is said by every call that would otherwise say OK of nothing.
Result ultraep_plan::LostOrOk() const {
  std::lock_guard lock(mutex_);
  return lost_.empty() ? Ok() : Failed(lost_);
}

Result ultraep_plan::AwaitGradients(uint64_t timeout_ns) {
  const Reducing now = reducing();
  if (!now.reduce) return LostOrOk();
  Result result = now.generation->reducer->Await(now.reduce.get(), timeout_ns);
  if (result.status == ULTRAEP_TIMEOUT) return result;
  const Reduce& done = *now.reduce;
  const ReduceTally tally = now.generation->reducer->Tally(done);
  std::lock_guard lock(mutex_);
  reduce_stats_ = {tally.bytes,     done.operation.replica_count, tally.add_ns, tally.wait_ns,
                   done.prepare_ns, done.over_ns - done.issued_ns};
  reducing_ = {};
  if (!result.ok()) lost_ = result.text;
  return result;
}

Result ultraep_plan::Release(uint64_t timeout_ns) {
  const Streaming now = streaming();
  if (!now.stream) return LostOrOk();
  if (now.stream->prepared && !now.generation->failed())
    return Invalid("the plan's gradients are prepared: reduce them first, homes wait for them");
  Result result = now.generation->streamer->Release(now.stream.get(), timeout_ns);
  if (result.status == ULTRAEP_TIMEOUT) return result;
  const ultraep::Stream& done = *now.stream;
  const StreamTally tally = now.generation->streamer->Tally(done);
  const auto since_issue = [&](uint64_t then) { return then ? then - done.issued_ns : 0; };
  std::lock_guard lock(mutex_);
  stream_stats_ = {tally.bytes,
                   tally.copy_ns,
                   tally.wait_ns,
                   tally.relayed_bytes,
                   tally.transfers,
                   tally.loaded_bytes,
                   since_issue(done.over_ns),
                   since_issue(done.arrived_ns)};
  streaming_ = {};  // a plan that is kept for backward pins no slots
  if (!result.ok()) lost_ = result.text;
  return result;
}

Result ultraep_plan::Stats(ultraep_stream_stats* stats) const {
  std::lock_guard lock(mutex_);
  if (streaming_.stream) return Invalid("the plan is not released yet: its sends may still run");
  *stats = stream_stats_;
  return Ok();
}

Result ultraep_plan::Stats(ultraep_reduce_stats* stats) const {
  std::lock_guard lock(mutex_);
  if (reducing_.reduce) return Invalid("the plan's gradients are not awaited yet");
  *stats = reduce_stats_;
  return Ok();
}

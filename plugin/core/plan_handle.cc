#include "plugin/core/plan_handle.h"

#include <algorithm>
#include <string>
#include <utility>

#include "plugin/core/forks.h"

using namespace ultraep;

ultraep_plan::ultraep_plan(ResolvedStep step, uint32_t source)
    : forks_(ForkCount()),
      step_(std::move(step)),
      source_(source),
      router_(step_.plan, source, step_.row.data()) {}

// A plan freed without release would stop its group: nobody could store into this rank's slots. One
// that was never streamed already has: its replicas elsewhere wait for this rank's experts.
ultraep_plan::~ultraep_plan() {
  if (stream_)
    Release(step_timeout_ns());
  else if (Moves())
    step_.generation->streamer->Abandon(step_.plan);
}

bool ultraep_plan::forked() const { return ForkCount() != forks_; }

// Do weights travel for this plan?
bool ultraep_plan::Moves() const {
  return !step_.plan.replicas.empty() && step_.generation->layout.config.shard_count > 0;
}

void ultraep_plan::Free() {
  if (forked()) return;  // the parent's to release
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

uint64_t ultraep_plan::step_timeout_ns() const {
  return step_.generation ? step_.generation->clocks.step_timeout_ns : 0;
}

std::shared_ptr<Stream> ultraep_plan::stream() const {
  std::lock_guard lock(mutex_);
  return stream_;
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
  if (auto s = stream()) {
    info.operation = s->operation.number;
    info.slot_set = s->operation.set;
  }
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

Result ultraep_plan::Stream(uint32_t slot_set, const void* const* mains) {
  if (!Moves()) return Ok();
  Generation& g = *step_.generation;
  for (uint64_t i = 0;
       i < uint64_t{step_.plan.shape.experts_per_rank()} * g.layout.config.shard_count; ++i)
    if (!mains || !mains[i]) return Invalid("main_weights[" + std::to_string(i) + "] is NULL");
  std::lock_guard lock(mutex_);
  if (stream_) return Invalid("the plan's weights are streamed already");
  return g.streamer->Start(step_.plan, slot_set, mains, &stream_);
}

Result ultraep_plan::AwaitWeights(uint64_t timeout_ns) {
  if (!Moves()) return Ok();
  auto s = stream();
  if (!s) return Invalid("stream the plan's weights first");
  return step_.generation->streamer->AwaitArrival(*s, timeout_ns);
}

Result ultraep_plan::Slot(uint32_t slot, uint32_t* expert, const void** shards) const {
  if (slot >= step_.plan.shape.slots)
    return Invalid("slot is " + std::to_string(slot) + ", the group has " +
                   std::to_string(step_.plan.shape.slots) + " per rank");
  *expert = UINT32_MAX;
  for (const Replica& r : step_.plan.replicas) {
    if (r.rank != source_ || r.slot != slot) continue;
    auto s = stream();
    const GroupConfig& config = step_.generation->layout.config;
    if (!s && config.shard_count) return Invalid("stream the plan's weights first");
    *expert = r.expert;
    for (uint32_t i = 0; i < config.shard_count; ++i)
      shards[i] = step_.generation->boards.shard(source_, s->operation.set, slot, i);
    return Ok();
  }
  return Ok();
}

Result ultraep_plan::Release(uint64_t timeout_ns) {
  auto s = stream();
  return s ? step_.generation->streamer->Release(s.get(), timeout_ns) : Ok();
}

Result ultraep_plan::Stats(ultraep_stream_stats* stats) const {
  *stats = {};
  auto s = stream();
  if (!s) return Ok();
  StreamTally tally;
  Result result = step_.generation->streamer->Tally(*s, &tally);
  if (result.ok()) *stats = {tally.bytes, tally.copy_ns, tally.wait_ns};
  return result;
}

#include "daemon/session/statistics.h"

#include <utility>

#include "protocol/verdict_board.h"

namespace ultraep {
namespace {

template <class T>
T Copy(const T& counted) {
  T copy;
  CopyFromShared(&copy, &counted, sizeof copy);
  return copy;
}

void Set(uint64_t* word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }

}  // namespace

void StepStatistics::Count(const StepOutcome& step) {
  if (step.load.tokens) CountLatencyAlone(&planning_.collect, step.collect_ns);
  if (step.replicas)
    CountPlan(step);
  else
    CountFallback(step.verdict);
  verdicts_.Push(step.verdict);
  if (step.load.tokens && traced_.load(std::memory_order_acquire)) Trace(step);
}

void StepStatistics::CountPlan(const StepOutcome& step) {
  const Certificate& c = step.verdict.certificate;
  CountAlone(&counters_.steps_planned, 1);
  CountAlone(&counters_.replicas, step.verdict.replicas);
  CountAlone(&counters_.peak_before_sum, c.peak_before);
  CountAlone(&counters_.peak_sum, c.peak);
  CountAlone(&counters_.lower_bound_sum, c.lower_bound);
  CountAlone(&counters_.tokens_sum, c.total);
  CountLatencyAlone(&planning_.solve, step.verdict.solve_ns);
  CountLatencyAlone(&planning_.plan, step.plan_ns);
  last_plan_.Push(step.verdict);
  if (!layers_.empty()) CountLayer(step);
}

void StepStatistics::CountFallback(const StepVerdict& verdict) {
  uint64_t* counter = &counters_.fallback_deadline;
  if (verdict.reason == FallbackReason::kOrderMismatch) counter = &counters_.fallback_order;
  if (verdict.reason == FallbackReason::kBadRow) counter = &counters_.fallback_bad_row;
  CountAlone(counter, 1);
  fallbacks_.Push(verdict);
}

void StepStatistics::Trace(const StepOutcome& step) {
  // The session thread holds it for some instructions only, but may be preempted there.
  std::unique_lock lock(tap_mutex_, std::try_to_lock);
  if (!lock || !tap_) return;
  TraceRecord record;
  record.generation = step.verdict.generation;
  record.sequence = step.verdict.sequence;
  record.time_ns = step.verdict.time_ns;
  record.layer = step.verdict.layer;
  record.microbatch = step.verdict.microbatch;
  record.verdict = uint16_t(step.replicas ? Verdict::kPlan : Verdict::kFallback);
  record.reason = uint16_t(step.verdict.reason);
  record.certificate = step.verdict.certificate;
  record.solve_ns = step.verdict.solve_ns;
  tap_->Push(record, step.load, step.replicas);
}

// Tokens that each rank receives: mains' loads, moved by the replicas' quotas.
void StepStatistics::CountLayer(const StepOutcome& step) {
  if (step.verdict.layer >= layers_.size()) return;
  LayerStatistics& layer = layers_[step.verdict.layer];
  CountAlone(&layer.steps, 1);
  Set(&layer.last_peak_before, step.verdict.certificate.peak_before);
  Set(&layer.last_peak, step.verdict.certificate.peak);
  Set(&layer.last_tokens, step.verdict.certificate.total);
  if (layer.rank_tokens.empty()) return;
  rank_tokens_.assign(step.shape.ranks, 0);
  const uint32_t per_rank = step.shape.experts_per_rank();
  const uint32_t* cell = step.load.tokens;
  for (uint32_t source = 0; source < step.load.ranks; ++source)
    for (uint64_t& tokens : rank_tokens_) {
      uint64_t sum = 0;
      for (uint32_t e = 0; e < per_rank; ++e) sum += *cell++;
      tokens += sum;
    }
  for (const Replica& replica : *step.replicas) {
    rank_tokens_[step.shape.home(replica.expert)] -= replica.tokens;
    rank_tokens_[replica.rank] += replica.tokens;
  }
  for (uint32_t r = 0; r < step.shape.ranks; ++r)
    CountAlone(&layer.rank_tokens[r], rank_tokens_[r]);
}

void StepStatistics::KeepLayers(uint32_t layers, uint32_t ranks) {
  layers_.resize(layers);
  for (LayerStatistics& layer : layers_) layer.rank_tokens.resize(ranks);
}

uint64_t StepStatistics::detail_series() const {
  return layers_.empty() ? 0 : layers_.size() * (2 + layers_[0].rank_tokens.size());
}

void StepStatistics::Lost(MemberState how) {
  CountAlone(how == MemberState::kLeft   ? &counters_.members_left
             : how == MemberState::kGone ? &counters_.members_gone
                                         : &counters_.members_fenced,
             1);
}

void StepStatistics::Record(std::shared_ptr<TraceTap> tap) {
  std::lock_guard lock(tap_mutex_);
  tap_ = std::move(tap);
  traced_.store(tap_ != nullptr, std::memory_order_release);
}

GroupCounters StepStatistics::Counters() const {
  GroupCounters counters = Copy(counters_);
  StepVerdict last;
  if (!last_plan_.Last(&last)) return counters;
  counters.last_peak_before = last.certificate.peak_before;
  counters.last_peak = last.certificate.peak;
  counters.last_lower_bound = last.certificate.lower_bound;
  counters.last_tokens = last.certificate.total;
  counters.last_replicas = last.replicas;
  counters.last_planned_ns = last.time_ns;
  return counters;
}

PlanLatencies StepStatistics::Planning() const { return Copy(planning_); }

std::vector<LayerStatistics> StepStatistics::Layers() const {
  std::vector<LayerStatistics> layers(layers_.size());
  const auto read = [](const uint64_t& word) { return __atomic_load_n(&word, __ATOMIC_RELAXED); };
  for (size_t l = 0; l < layers.size(); ++l) {
    const LayerStatistics& from = layers_[l];
    layers[l] = {read(from.steps),
                 read(from.last_peak_before),
                 read(from.last_peak),
                 read(from.last_tokens),
                 {}};
    for (const uint64_t& tokens : from.rank_tokens) layers[l].rank_tokens.push_back(read(tokens));
  }
  return layers;
}

}  // namespace ultraep

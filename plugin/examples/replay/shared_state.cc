#include "plugin/examples/replay/shared_state.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

namespace ultraep::replay {

SharedState::SharedState(const SharedSizes& sizes) : sizes_(sizes) {
  const PlanShape& shape = sizes.shape;
  const PhysicalIds numbering{shape.experts_per_rank(), shape.slots};
  run_at_ = RoundUp(sizeof(Control), kLine);
  ranks_at_ = run_at_ + sizeof(RunRecord);
  weights_at_ = ranks_at_ + shape.ranks * sizeof(RankRecord);
  up_bytes_ = RoundUp(sizes.expert.up_floats() * sizeof(float), kLine);
  down_bytes_ = RoundUp(sizes.expert.down_floats() * sizeof(float), kLine);
  const uint64_t weight_layers = std::min(sizes.layers, kWeightLayers);
  buffers_at_ = weights_at_ + weight_layers * shape.experts * (up_bytes_ + down_bytes_);
  const uint64_t physical = uint64_t{shape.ranks} * numbering.per_rank();
  starts_bytes_ = RoundUp((physical + 1) * sizeof(uint32_t), kLine);
  homes_bytes_ = RoundUp(shape.ranks * sizeof(uint32_t), kLine);
  rows_bytes_ = RoundUp(sizes.max_copies * sizes.expert.hidden * sizeof(float), kLine);
  buffer_bytes_ = starts_bytes_ + homes_bytes_ + 2 * rows_bytes_;
  total_bytes_ = buffers_at_ + shape.ranks * buffer_bytes_;
}

SharedState::~SharedState() {
  if (memory_) munmap(memory_, total_bytes_);
}

uint64_t SharedState::BytesFor(const SharedSizes& sizes) { return SharedState(sizes).total_bytes_; }

std::string SharedState::Map() {
  void* memory = mmap(nullptr, total_bytes_, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return "mapping " + std::to_string(total_bytes_) +
           " bytes of shared memory: " + std::strerror(errno);
  memory_ = memory;  // all zero, which is a valid start for every record
  control()->last_sequence.value.store(UINT64_MAX, std::memory_order_relaxed);
  return "";
}

void MeasureStep(SharedState* shared, uint64_t sequence, uint64_t solve_ns) {
  const PlanShape& shape = shared->sizes().shape;
  const uint32_t per_rank = shape.experts_per_rank() + shape.slots;
  uint64_t total = 0, peak_before = 0, peak_after = 0;
  uint32_t planned = 0, fallbacks = 0;
  for (uint32_t rank = 0; rank < shape.ranks; ++rank) {
    uint64_t before = 0, after = 0;
    for (uint32_t source = 0; source < shape.ranks; ++source) {
      const uint32_t* starts = shared->starts(source);
      before += shared->home_tokens(source)[rank];
      after += starts[(rank + 1) * per_rank] - starts[rank * per_rank];
    }
    total += after;
    peak_before = std::max(peak_before, before);
    peak_after = std::max(peak_after, after);
    planned += shared->rank(rank)->note.verdict == ULTRAEP_PLAN;
    fallbacks += shared->rank(rank)->note.verdict == ULTRAEP_FALLBACK;
  }
  const auto excess = [&](uint64_t peak) {
    return static_cast<uint64_t>(
        std::llround((Imbalance(peak, total, shape.ranks) - 1) / kExcessUnit));
  };
  RunRecord* run = shared->run();
  // A rank may decline a step that another one submitted: both use the main copies. A plan is a
  // plan for all or for none.
  run->step = {excess(peak_before), excess(peak_after), solve_ns,
               planned     ? ULTRAEP_PLAN
               : fallbacks ? ULTRAEP_FALLBACK
                           : ULTRAEP_DECLINED};
  run->measured.Set(sequence + 1);
  if (planned && planned < shape.ranks) run->disagreements.Add(1);
}

void RecordStep(SharedState* shared) {
  RunRecord* run = shared->run();
  const uint32_t ranks = shared->sizes().shape.ranks;
  const uint64_t end = run->measured.get();
  Totals totals = run->totals();
  if (end == totals.end) return;
  for (uint32_t r = 0; r < ranks; ++r) {
    if (shared->rank(r)->finished.get() != end) return;
    totals.tokens_checked += shared->rank(r)->tokens.get();
  }
  const StepResult& step = run->step;
  run->excess_before.Add(step.excess_before);
  run->excess_after.Add(step.excess_after);
  if (step.verdict == ULTRAEP_PLAN) run->solve_ns.Add(step.solve_ns);
  totals.end = end;
  ++totals.steps;
  ++(step.verdict == ULTRAEP_PLAN       ? totals.planned
     : step.verdict == ULTRAEP_FALLBACK ? totals.fallbacks
                                        : totals.declined);
  run->both[(run->version.get() + 1) % 2] = totals;
  run->version.Add(1);
}

}  // namespace ultraep::replay

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

void RecordStep(SharedState* shared, uint64_t solve_ns) {
  const PlanShape& shape = shared->sizes().shape;
  const uint32_t per_rank = shape.experts_per_rank() + shape.slots;
  RunRecord* run = shared->run();
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
    return std::llround((Imbalance(peak, total, shape.ranks) - 1) / kExcessUnit);
  };
  run->excess_before.Add(excess(peak_before));
  run->excess_after.Add(excess(peak_after));
  run->steps.Add(1);
  // A rank may decline a step that another one submitted: both use the main copies. A plan is a
  // plan for all or for none.
  (planned ? run->planned : fallbacks ? run->fallbacks : run->declined).Add(1);
  if (planned) run->solve_ns.Add(solve_ns);
  if (planned && planned < shape.ranks) run->disagreements.Add(1);
}

}  // namespace ultraep::replay

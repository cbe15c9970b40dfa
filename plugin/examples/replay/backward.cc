#include "plugin/examples/replay/backward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace ultraep::replay {

Backward::Backward(SharedState* shared, uint32_t rank)
    : shared_(shared),
      rank_(rank),
      numbering_{shared->sizes().shape.experts_per_rank(), shared->sizes().shape.slots},
      expert_(shared->sizes().expert) {
  for (uint32_t e = 0; e < numbering_.experts_per_rank; ++e)
    for (const uint64_t floats : {expert_.up_floats(), expert_.down_floats()}) {
      mains_.emplace_back(floats);
      addresses_.push_back(mains_.back().data());
    }
}

void Backward::AddTokens(uint32_t physical, std::vector<float>* sums) const {
  const uint32_t hidden = expert_.hidden;
  for (uint32_t source = 0; source < shared_->sizes().shape.ranks; ++source) {
    const uint32_t* starts = shared_->starts(source) + physical;
    for (uint64_t row = starts[0]; row < starts[1]; ++row) {
      const float* x = shared_->send(source) + row * hidden;
      for (uint32_t h = 0; h < hidden; ++h) (*sums)[h] += std::nearbyint(2 * x[h]);
    }
  }
}

// Both shards, so that a byte in a wrong place shows.
void Backward::AddGradient(const std::vector<float>& sums, float* up, float* down) const {
  for (uint32_t h = 0; h < expert_.hidden; ++h)
    for (uint32_t j = 0; j < 2 * expert_.ffn; ++j)
      up[uint64_t{h} * 2 * expert_.ffn + j] += sums[h] * float(1 + j % 3);
  for (uint32_t f = 0; f < expert_.ffn; ++f)
    for (uint32_t h = 0; h < expert_.hidden; ++h)
      down[uint64_t{f} * expert_.hidden + h] += sums[h] * float(1 + f % 2);
}

ultraep_status Backward::Run(ultraep_plan* plan, uint32_t layer, const void* const* main_weights,
                             const std::vector<ultraep_replica>& replicas) {
  mismatches_ = 0;
  ultraep_status status = ultraep_stream_weights(plan, 0, main_weights);
  if (status != ULTRAEP_OK) return status;
  status = ultraep_prepare_gradients(plan, 1, -1);  // while the weights travel
  if (status != ULTRAEP_OK) return status;
  status = ultraep_await_weights(plan, -1);
  if (status != ULTRAEP_OK) return status;
  CheckSlots(plan, layer);
  for (uint32_t e = 0; e < numbering_.experts_per_rank; ++e) {
    std::vector<float> sums(expert_.hidden);
    AddTokens(rank_ * numbering_.per_rank() + e, &sums);
    for (const uint32_t part : {0, 1})
      std::fill(mains_[e * 2 + part].begin(), mains_[e * 2 + part].end(), 0.0f);
    AddGradient(sums, mains_[e * 2].data(), mains_[e * 2 + 1].data());
  }
  status = AddSlots(plan);
  if (status != ULTRAEP_OK) return status;
  status = ultraep_reduce_gradients(plan, addresses_.data(), ULTRAEP_FLOAT32, 0);
  if (status != ULTRAEP_OK) return status;
  status = ultraep_release(plan, -1);
  if (status != ULTRAEP_OK) return status;
  status = ultraep_await_gradients(plan, -1);
  if (status != ULTRAEP_OK) return status;
  CheckMains(replicas);
  return ultraep_plan_get_reduce_stats(plan, &stats_);
}

ultraep_status Backward::AddSlots(ultraep_plan* plan) {
  for (uint32_t slot = 0; slot < numbering_.slots; ++slot) {
    uint32_t expert = UINT32_MAX;
    float* parts[ULTRAEP_MAX_SHARDS] = {};
    const ultraep_status status = ultraep_plan_get_gradient(plan, slot, &expert, parts);
    if (status != ULTRAEP_OK) return status;
    if (expert == UINT32_MAX) continue;
    std::vector<float> sums(expert_.hidden);
    AddTokens(numbering_.replica(rank_, slot), &sums);
    AddGradient(sums, parts[0], parts[1]);
  }
  return ULTRAEP_OK;
}

// A restored slot holds its expert's main weights again.
void Backward::CheckSlots(ultraep_plan* plan, uint32_t layer) {
  for (uint32_t slot = 0; slot < numbering_.slots; ++slot) {
    uint32_t expert = UINT32_MAX;
    const void* shards[ULTRAEP_MAX_SHARDS] = {};
    if (ultraep_plan_get_slot(plan, slot, &expert, shards) != ULTRAEP_OK) ++mismatches_;
    if (expert == UINT32_MAX) continue;
    const bool same = !std::memcmp(shards[0], shared_->main_up(layer, expert),
                                   expert_.up_floats() * sizeof(float)) &&
                      !std::memcmp(shards[1], shared_->main_down(layer, expert),
                                   expert_.down_floats() * sizeof(float));
    mismatches_ += !same;
  }
}

// What one instance that served all tokens would have.
void Backward::CheckMains(const std::vector<ultraep_replica>& replicas) {
  for (uint32_t e = 0; e < numbering_.experts_per_rank; ++e) {
    std::vector<float> sums(expert_.hidden);
    AddTokens(rank_ * numbering_.per_rank() + e, &sums);
    for (const ultraep_replica& r : replicas)
      if (r.expert == rank_ * numbering_.experts_per_rank + e)
        AddTokens(numbering_.replica(r.rank, r.slot), &sums);
    std::vector<float> up(expert_.up_floats()), down(expert_.down_floats());
    AddGradient(sums, up.data(), down.data());
    const bool same =
        !std::memcmp(up.data(), mains_[e * 2].data(), up.size() * sizeof(float)) &&
        !std::memcmp(down.data(), mains_[e * 2 + 1].data(), down.size() * sizeof(float));
    mismatches_ += !same;
  }
}

}  // namespace ultraep::replay

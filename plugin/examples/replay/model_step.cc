#include "plugin/examples/replay/model_step.h"

#include <algorithm>
#include <cstring>

#include "plugin/examples/replay/random.h"

namespace ultraep::replay {

ModelStep::ModelStep(SharedState* shared, uint32_t rank, uint32_t top_k, uint64_t seed)
    : shared_(shared),
      rank_(rank),
      top_k_(top_k),
      hidden_(shared->sizes().expert.hidden),
      seed_(seed),
      numbering_{shared->sizes().shape.experts_per_rank(), shared->sizes().shape.slots},
      math_(shared->sizes().expert),
      row_(hidden_),
      balanced_(hidden_),
      direct_(hidden_),
      received_(shared->sizes().shape.slots) {}

void ModelStep::Begin(uint64_t sequence, uint32_t layer, const std::vector<int32_t>& ids) {
  layer_ = layer;
  ids_ = ids;
  tokens_ = ids.size() / top_k_;
  Random random(seed_, kActivationStream, sequence, rank_);
  x_.resize(tokens_ * hidden_);
  for (float& x : x_) x = static_cast<float>(2 * random.Uniform() - 1);
  gates_.resize(ids.size());
  for (float& gate : gates_) gate = static_cast<float>(random.Uniform());
}

void ModelStep::Dispatch(const std::vector<int32_t>& physical) {
  const PlanShape& shape = shared_->sizes().shape;
  const uint32_t instances = shape.ranks * numbering_.per_rank();
  uint32_t* starts = shared_->starts(rank_);
  uint32_t* homes = shared_->home_tokens(rank_);
  std::fill(starts, starts + instances + 1, 0u);
  std::fill(homes, homes + shape.ranks, 0u);
  for (size_t i = 0; i < physical.size(); ++i) {
    if (physical[i] < 0) continue;
    ++starts[physical[i] + 1];
    ++homes[shape.home(ids_[i])];
  }
  for (uint32_t p = 0; p < instances; ++p) starts[p + 1] += starts[p];
  next_.assign(starts, starts + instances);
  position_.resize(physical.size());
  float* send = shared_->send(rank_);
  for (size_t i = 0; i < physical.size(); ++i) {
    if (physical[i] < 0) continue;
    position_[i] = next_[physical[i]]++;
    std::copy_n(&x_[i / top_k_ * hidden_], hidden_, send + uint64_t{position_[i]} * hidden_);
  }
}

const std::vector<uint64_t>& ModelStep::Compute(const std::vector<ExpertWeights>& slots) {
  std::fill(received_.begin(), received_.end(), 0);
  for (uint32_t local = 0; local < numbering_.per_rank(); ++local) {
    const bool is_main = local < numbering_.experts_per_rank;
    const uint32_t slot = is_main ? 0 : local - numbering_.experts_per_rank;
    ExpertWeights weights;
    if (is_main) {
      const uint32_t expert = rank_ * numbering_.experts_per_rank + local;
      weights = {shared_->main_up(layer_, expert), shared_->main_down(layer_, expert)};
    } else {
      weights = slots[slot];
    }
    const uint32_t physical = rank_ * numbering_.per_rank() + local;
    for (uint32_t source = 0; source < shared_->sizes().shape.ranks; ++source) {
      const uint64_t first = shared_->starts(source)[physical];
      const uint64_t rows = shared_->starts(source)[physical + 1] - first;
      if (rows == 0) continue;
      float* y = shared_->returned(source) + first * hidden_;
      if (weights.up)
        math_.Compute(weights.up, weights.down, shared_->send(source) + first * hidden_, rows, y);
      else
        std::memset(y, 0xFF, rows * hidden_ * sizeof(float));
      if (!is_main) received_[slot] += rows;
    }
  }
  return received_;
}

uint64_t ModelStep::Check() {
  const float* returned = shared_->returned(rank_);
  uint64_t differ = 0;
  for (uint64_t t = 0; t < tokens_; ++t) {
    std::fill(balanced_.begin(), balanced_.end(), 0.0f);
    std::fill(direct_.begin(), direct_.end(), 0.0f);
    for (uint64_t i = t * top_k_; i < (t + 1) * top_k_; ++i) {
      if (ids_[i] < 0) continue;
      const float* y = returned + uint64_t{position_[i]} * hidden_;
      math_.Compute(shared_->main_up(layer_, ids_[i]), shared_->main_down(layer_, ids_[i]),
                    &x_[t * hidden_], 1, row_.data());
      for (uint32_t h = 0; h < hidden_; ++h) balanced_[h] += gates_[i] * y[h];
      for (uint32_t h = 0; h < hidden_; ++h) direct_[h] += gates_[i] * row_[h];
    }
    differ += std::memcmp(balanced_.data(), direct_.data(), hidden_ * sizeof(float)) != 0;
  }
  return differ;
}

}  // namespace ultraep::replay

// The backward of a step's experts, on one rank (--train): slots are restored from the step's plan,
// every instance adds the gradient of the tokens it served, replicas' gradients are reduced into
// the homes' main gradients, and each home compares with the sum over all tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "plugin/api/ultraep.h"
#include "plugin/examples/replay/shared_state.h"

namespace ultraep::replay {

// A token's gradient is made of small whole numbers, so every order of summing gives the same
// float32 bits as long as no sum passes 2^24: 6 per token at most.
inline constexpr uint64_t kMostTrainTokens = (uint64_t{1} << 24) / 6;

class Backward {
 public:
  Backward(SharedState* shared, uint32_t rank);

  // All of it, after the forward's release; every rank calls it. The send buffers of the step must
  // stand still. The status of the first call that is not OK.
  ultraep_status Run(ultraep_plan* plan, uint32_t layer, const void* const* main_weights,
                     const std::vector<ultraep_replica>& replicas);

  // Of the last Run: restored slots and main gradients that are wrong in any bit.
  uint64_t mismatches() const { return mismatches_; }
  const ultraep_reduce_stats& stats() const { return stats_; }

 private:
  // The sums that a gradient is made of, over the tokens that instance `physical` served.
  void AddTokens(uint32_t physical, std::vector<float>* sums) const;
  void AddGradient(const std::vector<float>& sums, float* up, float* down) const;
  ultraep_status AddSlots(ultraep_plan* plan);
  void CheckSlots(ultraep_plan* plan, uint32_t layer);
  void CheckMains(const std::vector<ultraep_replica>& replicas);

  SharedState* const shared_;
  const uint32_t rank_;
  const PhysicalIds numbering_;
  const ExpertShape expert_;
  std::vector<std::vector<float>> mains_;  // [own expert][up, down]
  std::vector<void*> addresses_;
  uint64_t mismatches_ = 0;
  ultraep_reduce_stats stats_ = {};
};

}  // namespace ultraep::replay

// The framework's part of a step, on one rank: dispatch, experts, combine, and the same layer once
// more without dispatch to compare with.
#pragma once

#include <cstdint>
#include <vector>

#include "plugin/examples/replay/experts.h"
#include "plugin/examples/replay/shared_state.h"

namespace ultraep::replay {

// One expert's shards; null when a slot is empty.
struct ExpertWeights {
  const float* up = nullptr;
  const float* down = nullptr;
};

// Call in this order, with the barriers of shared_state.h: Begin, Dispatch | Compute | Check.
class ModelStep {
 public:
  ModelStep(SharedState* shared, uint32_t rank, uint32_t top_k, uint64_t seed);

  // Makes the activations and gate weights of the tokens whose experts are `ids`, [tokens][top_k].
  void Begin(uint64_t sequence, uint32_t layer, const std::vector<int32_t>& ids);
  // Sorts the routed copies into the send buffer. physical: as ultraep_route wrote it.
  void Dispatch(const std::vector<int32_t>& physical);
  // Computes what all sources sent to this rank. slots: this rank's, [slots]. Returns the tokens
  // that each of them got. A copy that was sent to an empty slot gets NaNs, which Check finds.
  const std::vector<uint64_t>& Compute(const std::vector<ExpertWeights>& slots);
  // Combines the results in top-k order, computes every token again from its experts' main copies
  // directly, and returns how many tokens differ in any bit.
  uint64_t Check();

  uint64_t tokens() const { return tokens_; }

 private:
  SharedState* const shared_;
  const uint32_t rank_, top_k_, hidden_;
  const uint64_t seed_;
  const PhysicalIds numbering_;
  ExpertMath math_;
  uint32_t layer_ = 0;
  uint64_t tokens_ = 0;
  std::vector<int32_t> ids_;                    // [tokens][top_k]
  std::vector<uint32_t> position_;              // [tokens][top_k] in send and return buffer
  std::vector<uint32_t> next_;                  // per physical expert, while sorting
  std::vector<float> x_;                        // [tokens][hidden]
  std::vector<float> gates_;                    // [tokens][top_k]
  std::vector<float> row_, balanced_, direct_;  // [hidden]
  std::vector<uint64_t> received_;              // [slots]
};

}  // namespace ultraep::replay

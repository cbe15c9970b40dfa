// The experts of the replay's model: SwiGLU in float32, y = (silu(x G) * (x U)) D.
//
// Row-independent: a row's result is a fixed order of operations on that row and the weights, so it
// is the same bits whatever else is in the batch and whichever copy of the weights is used. That is
// what makes "same result with and without balancing" a statement about bits.
#pragma once

#include <cstdint>
#include <vector>

namespace ultraep::replay {

// Weights stand input-major, so that the outputs of one input are neighbours:
//   up:   [hidden][2 * ffn]   per input the ffn gate weights, then the ffn up weights
//   down: [ffn][hidden]
struct ExpertShape {
  uint32_t hidden = 0;
  uint32_t ffn = 0;

  uint64_t up_floats() const { return uint64_t{2} * hidden * ffn; }
  uint64_t down_floats() const { return uint64_t{ffn} * hidden; }
};

// Deterministic weights of one expert of one layer.
void FillWeights(const ExpertShape& shape, uint64_t seed, uint32_t layer, uint32_t expert,
                 float* up, float* down);

class ExpertMath {
 public:
  explicit ExpertMath(const ExpertShape& shape);

  // x, y: [rows][hidden]. Allocates nothing.
  void Compute(const float* up, const float* down, const float* x, uint64_t rows, float* y);

 private:
  template <int kRows>
  void ComputeBlock(const float* up, const float* down, const float* x, float* y);

  const ExpertShape shape_;
  std::vector<float> both_;    // [rows of a block][2 * ffn]
  std::vector<float> middle_;  // [rows of a block][ffn]
};

}  // namespace ultraep::replay

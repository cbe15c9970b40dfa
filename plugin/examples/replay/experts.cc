// Built with -ffp-contract=off: a compiler that fuses a multiply and an add in one place and not in
// another would give a row different bits in different batches.
#include "plugin/examples/replay/experts.h"

#include <cmath>

#include "plugin/examples/replay/random.h"

namespace ultraep::replay {
namespace {

constexpr int kBlockRows = 4;     // rows that share one read of the weights
constexpr uint32_t kColumns = 8;  // outputs whose sums stay in registers

// out[r][j] = sum over i of in[r][i] * weights[i][j], each sum in ascending i from 0. Neither the
// number of rows nor the width of the column block changes the order of any sum.
template <int kRows, uint32_t kWidth>
void MultiplyColumns(const float* in, uint32_t inputs, const float* weights, uint32_t outputs,
                     uint32_t column, float* out) {
  float sum[kRows][kWidth] = {};
  for (uint32_t i = 0; i < inputs; ++i) {
    const float* w = weights + uint64_t{i} * outputs + column;
    for (int r = 0; r < kRows; ++r) {
      const float value = in[uint64_t(r) * inputs + i];
      for (uint32_t j = 0; j < kWidth; ++j) sum[r][j] += value * w[j];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (uint32_t j = 0; j < kWidth; ++j) out[uint64_t(r) * outputs + column + j] = sum[r][j];
  }
}

template <int kRows>
void Multiply(const float* in, uint32_t inputs, const float* weights, uint32_t outputs,
              float* out) {
  uint32_t column = 0;
  for (; column + kColumns <= outputs; column += kColumns)
    MultiplyColumns<kRows, kColumns>(in, inputs, weights, outputs, column, out);
  for (; column < outputs; ++column)
    MultiplyColumns<kRows, 1>(in, inputs, weights, outputs, column, out);
}

}  // namespace

void FillWeights(const ExpertShape& shape, uint64_t seed, uint32_t layer, uint32_t expert,
                 float* up, float* down) {
  Random random(seed, kWeightStream, layer, expert);
  // Uniform with variance 1 / inputs keeps activations near 1.
  const double up_range = std::sqrt(3.0 / shape.hidden);
  const double down_range = std::sqrt(3.0 / shape.ffn);
  for (uint64_t i = 0; i < shape.up_floats(); ++i)
    up[i] = static_cast<float>((2 * random.Uniform() - 1) * up_range);
  for (uint64_t i = 0; i < shape.down_floats(); ++i)
    down[i] = static_cast<float>((2 * random.Uniform() - 1) * down_range);
}

ExpertMath::ExpertMath(const ExpertShape& shape)
    : shape_(shape),
      both_(uint64_t{kBlockRows} * 2 * shape.ffn),
      middle_(uint64_t{kBlockRows} * shape.ffn) {}

template <int kRows>
void ExpertMath::ComputeBlock(const float* up, const float* down, const float* x, float* y) {
  const uint32_t ffn = shape_.ffn;
  Multiply<kRows>(x, shape_.hidden, up, 2 * ffn, both_.data());
  for (int r = 0; r < kRows; ++r) {
    const float* gate = &both_[uint64_t(r) * 2 * ffn];
    for (uint32_t j = 0; j < ffn; ++j)
      middle_[uint64_t(r) * ffn + j] = gate[j] / (1.0f + std::exp(-gate[j])) * gate[ffn + j];
  }
  Multiply<kRows>(middle_.data(), ffn, down, shape_.hidden, y);
}

void ExpertMath::Compute(const float* up, const float* down, const float* x, uint64_t rows,
                         float* y) {
  uint64_t row = 0;
  for (; row + kBlockRows <= rows; row += kBlockRows)
    ComputeBlock<kBlockRows>(up, down, x + row * shape_.hidden, y + row * shape_.hidden);
  for (; row < rows; ++row)
    ComputeBlock<1>(up, down, x + row * shape_.hidden, y + row * shape_.hidden);
}

}  // namespace ultraep::replay

#include "tests/support/load_generators.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <sstream>
#include <utility>

namespace ultraep::test {
namespace {

double Unit(Random* random) { return double(random->Next() >> 11) * 0x1p-53; }  // [0, 1)

// Mean 0, deviation 1. Twelve uniforms: close enough for loads, and no transcendental functions.
double Normal(Random* random) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += Unit(random);
  return sum;
}

// 0..count-1 in random order.
std::vector<uint32_t> Shuffled(uint32_t count, Random* random) {
  std::vector<uint32_t> order(count);
  for (uint32_t i = 0; i < count; ++i) order[i] = i;
  for (uint32_t i = count; i > 1; --i) std::swap(order[i - 1], order[random->Below(i)]);
  return order;
}

// Draws expert ids in proportion to integer weights (Vose's alias method, integers only). Weights
// are quantised, so a last-bit difference in somebody's exp() does not reach the draws.
class AliasTable {
 public:
  explicit AliasTable(const std::vector<double>& weights) : size_(uint32_t(weights.size())) {
    const double largest = *std::max_element(weights.begin(), weights.end());
    uint64_t sum = 0;
    std::vector<uint64_t> mass(size_);
    for (uint32_t i = 0; i < size_; ++i) {
      mass[i] = 1 + uint64_t(std::llround(weights[i] / largest * (1 << 24)));
      sum += mass[i];
    }
    // Every bucket holds `sum`; the masses are scaled to fill all buckets exactly.
    for (uint64_t& m : mass) m *= size_;
    bucket_ = sum;
    own_.assign(size_, sum);
    alias_.resize(size_);
    for (uint32_t i = 0; i < size_; ++i) alias_[i] = i;
    std::vector<uint32_t> small, large;
    for (uint32_t i = 0; i < size_; ++i) (mass[i] < sum ? small : large).push_back(i);
    while (!small.empty() && !large.empty()) {
      const uint32_t s = small.back(), l = large.back();
      small.pop_back();
      own_[s] = mass[s];
      alias_[s] = l;
      mass[l] -= sum - mass[s];
      if (mass[l] >= sum) continue;
      large.pop_back();
      small.push_back(l);
    }
  }

  uint32_t Draw(Random* random) const {
    const auto i = uint32_t(random->Below(size_));
    return random->Next() % bucket_ < own_[i] ? i : alias_[i];
  }

 private:
  uint32_t size_;
  uint64_t bucket_ = 0;
  std::vector<uint64_t> own_;
  std::vector<uint32_t> alias_;
};

// Largest rank load / mean when a token picks top_k different experts: an expert of weight w is
// picked with probability about 1 - exp(-c w), c such that the probabilities sum up to top_k.
double ExpectedImbalance(const std::vector<double>& weights, uint32_t ranks, uint32_t top_k) {
  const double total = [&] {
    double sum = 0;
    for (const double w : weights) sum += w;
    return sum;
  }();
  auto picked = [&](double c, double w) { return 1 - std::exp(-c * w / total); };
  double low = 0, high = 1e6;
  for (int i = 0; i < 80; ++i) {
    const double c = (low + high) / 2;
    double sum = 0;
    for (const double w : weights) sum += picked(c, w);
    (sum < top_k ? low : high) = c;
  }
  const size_t per_rank = weights.size() / ranks;
  double largest = 0, sum = 0;
  for (uint32_t r = 0; r < ranks; ++r) {
    double rank = 0;
    for (size_t i = 0; i < per_rank; ++i) rank += picked(low, weights[r * per_rank + i]);
    largest = std::max(largest, rank);
    sum += rank;
  }
  return largest * ranks / sum;
}

// The weights of the smallest parameter in [0, limit] that reach the imbalance, else of the limit.
std::vector<double> WeightsFor(double imbalance, uint32_t ranks, uint32_t top_k, double limit,
                               const std::function<std::vector<double>(double)>& weights) {
  double low = 0, high = limit;
  for (int i = 0; i < 40; ++i) {
    const double middle = (low + high) / 2;
    (ExpectedImbalance(weights(middle), ranks, top_k) < imbalance ? low : high) = middle;
  }
  return weights(high);
}

}  // namespace

LoadMatrix DrawLoad(uint32_t ranks, uint32_t experts,
                    const std::vector<std::vector<double>>& popularity, BatchShape batch,
                    Random* random) {
  LoadMatrix load(ranks, experts);
  std::vector<AliasTable> tables;
  for (const std::vector<double>& row : popularity) tables.emplace_back(row);
  const uint32_t top_k = std::min(batch.top_k, experts);
  std::vector<uint32_t> picked(top_k);
  for (uint32_t r = 0; r < ranks; ++r) {
    const AliasTable& table = tables[r % tables.size()];
    for (uint32_t t = 0; t < batch.tokens_per_rank; ++t) {
      uint32_t tries = 0;
      for (uint32_t k = 0; k < top_k;) {
        uint32_t e = table.Draw(random);
        if (++tries > 64)
          e = uint32_t(random->Below(experts));  // almost all weight on fewer than top_k
        if (std::find(picked.begin(), picked.begin() + k, e) != picked.begin() + k) continue;
        picked[k++] = e;
        ++load.at(r, e);
      }
    }
  }
  return load;
}

LoadMatrix DominantExpertLoad(uint32_t ranks, uint32_t experts, double imbalance, uint64_t seed,
                              BatchShape batch) {
  Random random(seed);
  const uint32_t per_rank = experts / ranks;
  const std::vector<uint32_t> order = Shuffled(ranks, &random);
  auto weights = [&](double exponent) {
    std::vector<double> w(experts);
    for (uint32_t r = 0; r < ranks; ++r)
      for (uint32_t i = 0; i < per_rank; ++i)
        w[order[r] * per_rank + i] = std::pow(r + 1, -exponent) * std::pow(i + 1, -4.0);
    return w;
  };
  return DrawLoad(ranks, experts, {WeightsFor(imbalance, ranks, batch.top_k, 6, weights)}, batch,
                  &random);
}

LoadMatrix ZipfLoad(uint32_t ranks, uint32_t experts, double imbalance, uint64_t seed,
                    BatchShape batch) {
  Random random(seed);
  const std::vector<uint32_t> order = Shuffled(experts, &random);
  auto weights = [&](double exponent) {
    std::vector<double> w(experts);
    for (uint32_t e = 0; e < experts; ++e) w[order[e]] = std::pow(e + 1, -exponent);
    return w;
  };
  return DrawLoad(ranks, experts, {WeightsFor(imbalance, ranks, batch.top_k, 6, weights)}, batch,
                  &random);
}

LoadMatrix LogNormalLoad(uint32_t ranks, uint32_t experts, double imbalance, uint64_t seed,
                         BatchShape batch) {
  Random random(seed);
  std::vector<double> z(experts);
  for (double& v : z) v = Normal(&random);
  auto weights = [&](double sigma) {
    std::vector<double> w(experts);
    for (uint32_t e = 0; e < experts; ++e) w[e] = std::exp(sigma * z[e]);
    return w;
  };
  const std::vector<double> base = WeightsFor(imbalance, ranks, batch.top_k, 6, weights);
  std::vector<std::vector<double>> rows(ranks, base);
  for (std::vector<double>& row : rows)
    for (double& w : row) w *= std::exp(0.5 * Normal(&random));
  return DrawLoad(ranks, experts, rows, batch, &random);
}

std::vector<std::vector<double>> ReadPopularity(const std::string& path) {
  std::vector<std::vector<double>> layers;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream values(line);
    std::vector<double> layer;
    for (double v; values >> v;) layer.push_back(v);
    if (!layer.empty()) layers.push_back(std::move(layer));
  }
  return layers;
}

std::vector<std::vector<double>> DeepSeekV3Popularity() {
  return ReadPopularity(ULTRAEP_SOURCE_DIR
                        "/plugin/examples/data/deepseek-v3-layer-popularity.txt");
}

LoadMatrix ProfileLoad(const std::vector<double>& popularity, uint32_t ranks, uint32_t experts,
                       uint64_t seed, BatchShape batch) {
  Random random(seed);
  std::vector<double> row(experts);
  for (uint32_t e = 0; e < experts; ++e) row[e] = popularity[e * (popularity.size() / experts)];
  return DrawLoad(ranks, experts, {row}, batch, &random);
}

LoadMatrix FromExpertTokens(uint32_t ranks, const std::vector<uint32_t>& expert_tokens) {
  LoadMatrix load(ranks, uint32_t(expert_tokens.size()));
  for (uint32_t e = 0; e < load.experts; ++e) load.at(e % ranks, e) = expert_tokens[e];
  return load;
}

}  // namespace ultraep::test

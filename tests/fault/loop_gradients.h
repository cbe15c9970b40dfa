// The training side of a kill loop's rank: what its slots' backward adds, and what its main
// gradients must be afterwards. Whole numbers, so that float32 sums are exact.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plugin/api/ultraep.h"
#include "tests/fault/expected.h"

namespace ultraep::test {

class LoopGradients {
 public:
  LoopGradients(const LoopConfig& config, uint32_t rank)
      : config_(config), rank_(rank), per_rank_(config.experts / config.ranks) {
    for (uint32_t e = 0; e < per_rank_; ++e)
      for (uint32_t part = 0; part < 2; ++part) {
        mains_.emplace_back(config.gradient_elements(part));
        addresses_.push_back(mains_.back().data());
      }
  }

  // Before a reduction: main gradients of 1.
  void* const* Begin() {
    for (auto& main : mains_) std::fill(main.begin(), main.end(), 1.0f);
    return addresses_.data();
  }
  // The backward of one slot; its parts are zero.
  void Add(uint32_t expert, float* const* parts, uint64_t tag) const {
    for (uint32_t part = 0; part < 2; ++part)
      for (uint64_t i = 0; i < config_.gradient_elements(part); ++i)
        parts[part][i] += Value(expert, rank_, part, i, tag);
  }
  // Empty when every own expert's main gradient has each of its replicas once.
  std::string Check(const std::vector<ultraep_replica>& replicas, uint64_t tag) const {
    for (uint32_t e = 0; e < per_rank_; ++e)
      for (uint32_t part = 0; part < 2; ++part)
        for (uint64_t i = 0; i < config_.gradient_elements(part); ++i) {
          float expected = 1;
          for (const ultraep_replica& r : replicas)
            if (r.expert == rank_ * per_rank_ + e)
              expected += Value(r.expert, r.rank, part, i, tag);
          if (mains_[e * 2 + part][i] != expected)
            return "main gradient of expert " + std::to_string(rank_ * per_rank_ + e) + " part " +
                   std::to_string(part) + " element " + std::to_string(i) + " is " +
                   std::to_string(mains_[e * 2 + part][i]) + ", not " + std::to_string(expected);
        }
    return "";
  }

 private:
  static float Value(uint32_t expert, uint32_t rank, uint32_t part, uint64_t i, uint64_t tag) {
    return float((tag * 7 + expert * 31 + rank * 101 + part * 3 + i) % 4096);
  }

  const LoopConfig config_;
  const uint32_t rank_, per_rank_;
  std::vector<std::vector<float>> mains_;  // [own expert][part]
  std::vector<void*> addresses_;
};

}  // namespace ultraep::test

// What a step must look like, as every process works it out for itself: rows, plan, weights.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "daemon/planner/solve_plan.h"
#include "plugin/api/ultraep.h"
#include "protocol/boards.h"
#include "tests/support/random.h"

namespace ultraep::test {

// Of a group; two chunks in a large shard.
struct LoopConfig {
  uint32_t ranks = 4, experts = 16, slots = 2, window = 1, slot_sets = 1;
  uint64_t shard_bytes[2] = {1000, 77};
  // No rank dies in this run, so what one rank holds all do: the last plan kept is restored again
  // and again, also while steps are declined and the ranks learn of the next generation one by one.
  bool restore_declined = false;

  PlanShape shape() const { return {ranks, experts, slots, 0}; }
  // Large shards have large gradients: two tiles.
  uint64_t gradient_elements(uint32_t part) const { return part ? 3 : shard_bytes[0] / 4; }
};

// As the daemon is told: with the default, experts as small as these would never be relayed.
inline constexpr uint32_t kFlagLatencyNs = 0;

inline constexpr uint32_t kRowTokens = 1024;

// Two hot experts that move every step. Equal sums, so that a torn row is not given away by its
// sum.
inline void ExpectedRow(uint64_t seed, uint64_t step, uint32_t rank, uint32_t experts,
                        uint32_t* row) {
  std::memset(row, 0, experts * sizeof *row);
  const uint64_t common = Mix(seed + 3 * step);
  const uint64_t own = Mix(common + rank);
  uint32_t left = kRowTokens;
  for (uint32_t e = 0; e < experts; ++e) {
    const uint32_t some = uint32_t(Mix(own + e) % 24);
    row[e] += some;
    left -= some;
  }
  const uint32_t second = left / 4 + uint32_t(own % 64);
  row[(common >> 8) % experts] += second;
  row[common % experts] += left - second;
}

class ExpectedPlan {
 public:
  ExpectedPlan(const LoopConfig& config, uint64_t seed, uint32_t epsilon_ppm)
      : config_(config), seed_(seed), load_(config.ranks * config.experts) {
    options_.epsilon_ppm = epsilon_ppm;
    LinkModel link;
    link.flag_latency_ns = kFlagLatencyNs;
    options_.relay_hop = link.RelayHop(config.shard_bytes[0] + config.shard_bytes[1], kChunkBytes);
  }
  // Empty when the handle holds exactly the plan of the step's rows.
  std::string Compare(uint64_t step, const ultraep_plan_info& info,
                      const std::vector<ultraep_replica>& replicas) {
    for (uint32_t r = 0; r < config_.ranks; ++r)
      ExpectedRow(seed_, step, r, config_.experts, &load_[r * config_.experts]);
    SolvePlan(config_.shape(), {load_.data(), config_.ranks, config_.experts}, options_,
              &workspace_, &plan_);
    const Certificate& c = plan_.certificate;
    if (info.total_tokens != c.total || info.peak_before != c.peak_before || info.peak != c.peak ||
        info.lower_bound != c.lower_bound)
      return "its certificate is another step's";
    if (replicas.size() != plan_.replicas.size())
      return "it has " + std::to_string(replicas.size()) + " replicas, not " +
             std::to_string(plan_.replicas.size());
    for (size_t i = 0; i < replicas.size(); ++i) {
      const ultraep_replica& a = replicas[i];
      const Replica& b = plan_.replicas[i];
      if (a.expert != b.expert || a.rank != b.rank || a.slot != b.slot || a.parent != b.parent ||
          a.tokens != b.tokens)
        return "replica " + std::to_string(i) + " differs";
    }
    return "";
  }

 private:
  const LoopConfig config_;
  const uint64_t seed_;
  PlanOptions options_;
  PlanWorkspace workspace_;
  Plan plan_;
  std::vector<uint32_t> load_;
};

// Weights change with every operation: `tag` is the step, and whether it is a restore.
inline uint64_t WeightBase(uint32_t expert, uint32_t shard, uint64_t tag) {
  return Mix(tag * 64 + expert * 2 + shard + 1);
}
inline uint64_t WeightWord(uint64_t base, uint64_t at) {
  const uint64_t z = (base + at) * 0x9e3779b97f4a7c15ull;
  return z ^ (z >> 32);
}

inline void FillWeights(unsigned char* to, uint64_t bytes, uint64_t base) {
  for (uint64_t i = 0; i < bytes / 8; ++i) {
    const uint64_t word = WeightWord(base, i);
    std::memcpy(to + i * 8, &word, 8);
  }
  const uint64_t last = WeightWord(base, bytes / 8);
  std::memcpy(to + bytes / 8 * 8, &last, bytes % 8);
}

// The first byte of a wrong word, or `bytes`.
inline uint64_t FirstWrongWeight(const unsigned char* at, uint64_t bytes, uint64_t base) {
  for (uint64_t i = 0; i < bytes / 8; ++i) {
    uint64_t word;
    std::memcpy(&word, at + i * 8, 8);
    if (word != WeightWord(base, i)) return i * 8;
  }
  const uint64_t last = WeightWord(base, bytes / 8);
  return std::memcmp(at + bytes / 8 * 8, &last, bytes % 8) ? bytes / 8 * 8 : bytes;
}

}  // namespace ultraep::test

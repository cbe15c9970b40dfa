// Loads for tests and benchmarks, equal on every machine: own random numbers and integer draws (the
// distributions of <random> differ between standard libraries).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/load.h"
#include "tests/support/random.h"

namespace ultraep::test {

// A load that owns its cells.
struct LoadMatrix {
  uint32_t ranks = 0;
  uint32_t experts = 0;
  std::vector<uint32_t> tokens;

  LoadMatrix() = default;
  LoadMatrix(uint32_t new_ranks, uint32_t new_experts)
      : ranks(new_ranks), experts(new_experts), tokens(size_t{new_ranks} * new_experts) {}
  LoadView view() const { return {tokens.data(), ranks, experts}; }
  uint32_t& at(uint32_t rank, uint32_t expert) { return tokens[size_t{rank} * experts + expert]; }
};

struct BatchShape {
  uint32_t tokens_per_rank = 8192;
  uint32_t top_k = 8;
};

// Routes a batch: every token of a rank picks top_k different experts with the given popularity
// (any scale; one value per expert). `popularity` has one row per rank, or one row for all.
LoadMatrix DrawLoad(uint32_t ranks, uint32_t experts,
                    const std::vector<std::vector<double>>& popularity, BatchShape batch,
                    Random* random);

// "Generator A": ranks follow a Zipf law whose exponent is chosen for the wanted imbalance, and
// within a rank one expert dominates (Zipf exponent 4).
LoadMatrix DominantExpertLoad(uint32_t ranks, uint32_t experts, double imbalance, uint64_t seed,
                              BatchShape batch = {});

// "Generator B": experts follow a Zipf law in random order; its exponent is chosen for the wanted
// imbalance. One expert may be hotter than a whole rank.
LoadMatrix ZipfLoad(uint32_t ranks, uint32_t experts, double imbalance, uint64_t seed,
                    BatchShape batch = {});

// "Generator C": log-normal popularity whose width is chosen for the wanted imbalance, and every
// source rank deviates from it (log-normal, deviation 0.5).
LoadMatrix LogNormalLoad(uint32_t ranks, uint32_t experts, double imbalance, uint64_t seed,
                         BatchShape batch = {});

// Reads a file of lines with one popularity per expert. Empty when it cannot be read.
std::vector<std::vector<double>> ReadPopularity(const std::string& path);

// Popularity of 256 experts in 58 layers, of the examples in this source tree.
std::vector<std::vector<double>> DeepSeekV3Popularity();

// A load drawn from one line of such a file. Fewer experts than values: every n-th value is used.
LoadMatrix ProfileLoad(const std::vector<double>& popularity, uint32_t ranks, uint32_t experts,
                       uint64_t seed, BatchShape batch = {});

// The whole expert's tokens on one source rank; enough where sources do not matter.
LoadMatrix FromExpertTokens(uint32_t ranks, const std::vector<uint32_t>& expert_tokens);

}  // namespace ultraep::test

// The replay's own generator: std distributions differ between standard libraries.
#pragma once

#include <cmath>
#include <cstdint>

namespace ultraep::replay {

// One stream per (seed, a, b, c): who needs numbers names its stream and asks nobody else.
// splitmix64 (Steele, Lea, Flood 2014).
class Random {
 public:
  explicit Random(uint64_t seed, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) : state_(seed) {
    for (const uint64_t word : {a, b, c}) state_ = Next() ^ word;
  }

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }

  // Above 0, below 1.
  double Uniform() { return (static_cast<double>(Next() >> 12) + 0.5) * 0x1p-52; }

  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(((Next() >> 32) * n) >> 32); }

  double Exponential() { return -std::log(Uniform()); }

  double Normal() {  // Box-Muller, one of the two values
    const double radius = std::sqrt(2 * Exponential());
    return radius * std::cos(6.283185307179586 * Uniform());
  }

 private:
  uint64_t state_;
};

// First words of the streams, so that no two uses share one.
enum Stream : uint64_t {
  kDomainStream = 1,
  kJitterStream,
  kSwitchStream,
  kMixtureStream,
  kTokenStream,
  kShuffleStream,
  kWeightStream,
  kActivationStream,
};

}  // namespace ultraep::replay

// Loads and digests for comparing plans between builds and machines: integers only, so that the
// load itself is the same everywhere.
#pragma once

#include <cstdint>

#include "protocol/plan.h"
#include "tests/support/load_generators.h"

namespace ultraep::test {

inline LoadMatrix IntegerLoad(const PlanShape& shape, uint64_t seed) {
  Random random(seed);
  LoadMatrix load(shape.ranks, shape.experts);
  for (uint32_t e = 0; e < shape.experts; ++e) {
    const uint32_t scale = 1 + random.Below(40) * random.Below(40);
    for (uint32_t r = 0; r < shape.ranks; ++r) load.at(r, e) = random.Below(scale);
  }
  return load;
}

inline uint64_t DigestOf(const Plan& plan) {
  uint64_t digest = 0xcbf29ce484222325;  // FNV-1a over 64-bit words
  auto add = [&](uint64_t word) { digest = (digest ^ word) * 0x100000001b3; };
  for (const Replica& r : plan.replicas)
    for (const uint64_t word : {uint64_t{r.expert}, uint64_t{r.rank}, uint64_t{r.slot}, r.tokens})
      add(word);
  add(plan.certificate.peak);
  add(plan.certificate.lower_bound);
  return digest;
}

}  // namespace ultraep::test

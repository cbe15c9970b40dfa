// What must hold for every plan, as one assertion.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "daemon/planner/solve_plan.h"
#include "protocol/check_plan.h"
#include "tests/support/load_generators.h"

namespace ultraep::test {

inline std::string Text(const PlanShape& s) {
  return "ranks " + std::to_string(s.ranks) + " experts " + std::to_string(s.experts) + " slots " +
         std::to_string(s.slots) + " domain " + std::to_string(s.domain_size);
}

// Highest level of any rank: tokens, for a slow rank as many as one at full speed would have to
// take.
inline uint64_t PeakOf(const std::vector<uint64_t>& rank_tokens, const PlanOptions& options) {
  uint64_t peak = 0;
  for (size_t r = 0; r < rank_tokens.size(); ++r) {
    const uint64_t speed = options.speeds.empty() ? kFullSpeed : options.speeds[r];
    peak = std::max(peak, (rank_tokens[r] * kFullSpeed + speed - 1) / speed);
  }
  return peak;
}

inline void ExpectSound(const PlanShape& shape, LoadView load, const Plan& plan,
                        const PlanOptions& options = {}) {
  const std::vector<Replica>& replicas = plan.replicas;
  PlanChecker checker;
  const PlanFault fault =
      checker.Check(shape, replicas, [&](uint32_t e) { return ExpertTokens(load, e); });
  ASSERT_FALSE(fault) << fault.text();

  std::vector<uint64_t> rank(shape.ranks, 0);
  uint64_t total = 0;
  for (uint32_t e = 0; e < shape.experts; ++e) {
    rank[shape.home(e)] += ExpertTokens(load, e);
    total += ExpertTokens(load, e);
  }
  const uint64_t before = PeakOf(rank, options);
  for (const Replica& r : replicas) {
    EXPECT_TRUE(options.without_slots.empty() || !options.without_slots[r.rank]);
    rank[shape.home(r.expert)] -= r.tokens;
    rank[r.rank] += r.tokens;
  }
  const uint64_t peak = PeakOf(rank, options);
  EXPECT_EQ(plan.certificate.total, total);
  EXPECT_EQ(plan.certificate.peak_before, before);
  EXPECT_EQ(plan.certificate.peak, peak);
  EXPECT_LE(plan.certificate.lower_bound, peak);
  if (options.cost.known()) return;  // a higher peak with fewer active experts may be cheaper
  EXPECT_LE(peak, before);
  // The exact mode also fills the emptiest ranks.
  EXPECT_TRUE(peak < before || replicas.empty() || options.epsilon_ppm == 0)
      << "replicas without a gain";
}

inline Plan SolveOrFail(const PlanShape& shape, LoadView load, const PlanOptions& options = {}) {
  PlanWorkspace workspace;
  Plan plan;
  SolvePlan(shape, load, options, &workspace, &plan);
  ExpectSound(shape, load, plan, options);
  return plan;
}

inline double ImbalanceOf(const PlanShape& shape, const Plan& plan) {
  return Imbalance(plan.certificate.peak, plan.certificate.total, shape.ranks);
}

}  // namespace ultraep::test

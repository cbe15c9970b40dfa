// The bounds are proven ones: exhaustive search over tiny problems never gets below them.
#include "daemon/planner/lower_bound.h"

#include "tests/daemon/planner/planner_checks.h"

namespace ultraep::test {
namespace {

using planner::Domain;
using planner::Problem;

// All placements of at most one replica per rank (slots 1), and for each the smallest peak, which
// by max-flow min-cut is the largest over sets of ranks of the tokens that cannot leave the set.
class Exhaustive {
 public:
  explicit Exhaustive(const Problem& problem)
      : problem_(problem), in_slot_(problem.shape.ranks, planner::kNone) {}

  uint64_t Peak() {
    Place(0);
    return best_;
  }

 private:
  void Place(uint32_t rank) {
    if (rank == problem_.shape.ranks) {
      best_ = std::min(best_, PeakOfPlacement());
      return;
    }
    for (uint32_t e = 0; e <= problem_.shape.experts; ++e) {
      if (e < problem_.shape.experts && problem_.shape.home(e) == rank) continue;
      in_slot_[rank] = e;
      Place(rank + 1);
    }
  }

  uint64_t PeakOfPlacement() const {
    uint64_t peak = 0;
    for (uint32_t set = 1; set < 1u << problem_.shape.ranks; ++set) {
      uint64_t stuck = 0, ranks = 0;
      for (uint32_t r = 0; r < problem_.shape.ranks; ++r) ranks += set >> r & 1;
      for (uint32_t e = 0; e < problem_.shape.experts; ++e) {
        bool inside = set >> problem_.shape.home(e) & 1;
        for (uint32_t r = 0; r < problem_.shape.ranks; ++r)
          if (in_slot_[r] == e && !(set >> r & 1)) inside = false;
        if (inside) stuck += problem_.expert_tokens[e];
      }
      peak = std::max(peak, (stuck + ranks - 1) / ranks);
    }
    return peak;
  }

  const Problem& problem_;
  std::vector<uint32_t> in_slot_;
  uint64_t best_ = UINT64_MAX;
};

TEST(LowerBound, NoPlanIsBelowItAndOursIsNotFarAbove) {
  uint32_t worse = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const uint32_t ranks = 2 + random.Below(3);
    const PlanShape shape{ranks, ranks * uint32_t(1 + random.Below(2)), 1, 0};
    std::vector<uint32_t> tokens(shape.experts);
    for (uint32_t& t : tokens) t = random.Below(3) ? random.Below(1000) : random.Below(10000);
    const LoadMatrix load = FromExpertTokens(ranks, tokens);
    PlanOptions options;
    options.epsilon_ppm = 0;
    const Plan plan = SolveOrFail(shape, load.view(), options);

    Problem problem;
    problem.Load(shape, load.view(), {});
    const uint64_t optimum = Exhaustive(problem).Peak();
    EXPECT_LE(plan.certificate.lower_bound, optimum);
    EXPECT_GE(plan.certificate.peak, optimum);
    problem.SortExperts({0, ranks});
    planner::LowerBound bound;
    EXPECT_LE(bound.Find(problem, Domain{0, ranks}, 0), optimum);
    if (plan.certificate.peak > optimum * 1.01) ++worse;
  }
  EXPECT_LE(worse, 3);
}

}  // namespace
}  // namespace ultraep::test

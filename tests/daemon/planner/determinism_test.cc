// The same rows and options give the same plan: on every machine, with any workspace, and without
// touching the heap.
#include <cstdlib>
#include <new>

#include "tests/daemon/planner/planner_checks.h"

namespace {
uint64_t allocations = 0;
}

// Not inlined: GCC would see free() on what operator new returned and warn.
__attribute__((noinline)) void* operator new(size_t bytes) {
  ++allocations;
  if (void* const memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace ultraep::test {
namespace {

// Integers only, so that the load itself is the same everywhere.
LoadMatrix IntegerLoad(const PlanShape& shape, uint64_t seed) {
  Random random(seed);
  LoadMatrix load(shape.ranks, shape.experts);
  for (uint32_t e = 0; e < shape.experts; ++e) {
    const uint32_t scale = 1 + random.Below(40) * random.Below(40);
    for (uint32_t r = 0; r < shape.ranks; ++r) load.at(r, e) = random.Below(scale);
  }
  return load;
}

uint64_t DigestOf(const Plan& plan) {
  uint64_t digest = 0xcbf29ce484222325;  // FNV-1a over 64-bit words
  auto add = [&](uint64_t word) { digest = (digest ^ word) * 0x100000001b3; };
  for (const Replica& r : plan.replicas)
    for (const uint64_t word : {uint64_t{r.expert}, uint64_t{r.rank}, uint64_t{r.slot}, r.tokens})
      add(word);
  add(plan.certificate.peak);
  add(plan.certificate.lower_bound);
  return digest;
}

TEST(PlanDeterminism, AUsedWorkspaceGivesTheSamePlanAsAFreshOne) {
  PlanWorkspace used;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const PlanShape shape{uint32_t(8 << (seed % 4)), 256, uint32_t(1 + seed % 3), 0};
    const LoadMatrix load = IntegerLoad(shape, seed);
    Plan fresh_plan, used_plan;
    PlanWorkspace fresh;
    SolvePlan(shape, load.view(), {}, &fresh, &fresh_plan);
    SolvePlan(shape, load.view(), {}, &used, &used_plan);
    EXPECT_EQ(fresh_plan, used_plan) << "seed " << seed << " " << Text(shape);
  }
}

// A changed value means that daemons of different builds would plan differently: change the version
// of the agreement with it.
TEST(PlanDeterminism, PlansAreTheSameOnEveryMachine) {
  const struct {
    PlanShape shape;
    uint64_t digest;
  } cases[] = {
      {{64, 256, 2, 0}, 2948934349401791311u},
      {{8, 256, 2, 0}, 2778736465208582681u},
      {{32, 128, 1, 8}, 7671090783270973467u},
  };
  for (const auto& c : cases) {
    const LoadMatrix load = IntegerLoad(c.shape, 7);
    EXPECT_EQ(DigestOf(SolveOrFail(c.shape, load.view())), c.digest) << Text(c.shape);
  }
}

TEST(PlanDeterminism, NothingIsAllocatedAfterTheFirstPlanOfAShape) {
  for (const PlanShape shape : {PlanShape{64, 256, 2, 0}, PlanShape{8, 256, 2, 0},
                                PlanShape{8, 64, 1, 0}, PlanShape{32, 128, 1, 8}}) {
    PlanWorkspace workspace;
    Plan plan;
    const LoadMatrix zero(shape.ranks, shape.experts);
    SolvePlan(shape, zero.view(), {}, &workspace, &plan);
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      const LoadMatrix load = seed % 2
                                  ? IntegerLoad(shape, seed)
                                  : LogNormalLoad(shape.ranks, shape.experts, 4, seed, {64, 8});
      const uint64_t before = allocations;
      SolvePlan(shape, load.view(), {}, &workspace, &plan);
      EXPECT_EQ(allocations - before, 0) << "seed " << seed << " " << Text(shape);
    }
  }
}

}  // namespace
}  // namespace ultraep::test

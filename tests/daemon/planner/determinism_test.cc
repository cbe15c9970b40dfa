// The same rows and options give the same plan: on every machine, with any workspace, and without
// touching the heap.
#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

#include "tests/daemon/planner/plan_digest.h"
#include "tests/daemon/planner/planner_checks.h"

namespace {
std::atomic<uint64_t> allocations = 0;
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

TEST(PlanDeterminism, ThreadsDoNotDisturbEachOther) {
  const PlanShape shape{64, 256, 2, 0};
  std::vector<Plan> alone(8), together(8);
  for (uint64_t i = 0; i < 8; ++i) {
    PlanWorkspace workspace;
    SolvePlan(shape, IntegerLoad(shape, i).view(), {}, &workspace, &alone[i]);
  }
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      const LoadMatrix load = IntegerLoad(shape, i);
      PlanWorkspace workspace;
      for (uint32_t k = 0; k < 20; ++k) SolvePlan(shape, load.view(), {}, &workspace, &together[i]);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(alone, together);
}

// A changed value means that daemons of different builds would plan differently: change the version
// of the agreement with it.
TEST(PlanDeterminism, PlansAreTheSameOnEveryMachine) {
  const struct {
    PlanShape shape;
    uint64_t digest;
  } cases[] = {
      {{64, 256, 2, 0}, 3878684951238675083u},
      {{8, 256, 2, 0}, 7694850589321417305u},
      {{32, 128, 1, 8}, 1592851722522263047u},
  };
  for (const auto& c : cases) {
    const LoadMatrix load = IntegerLoad(c.shape, 7);
    EXPECT_EQ(DigestOf(SolveOrFail(c.shape, load.view())), c.digest) << Text(c.shape);
  }
}

void ExpectNoAllocation(const PlanShape& shape, const PlanOptions& options) {
  PlanWorkspace workspace;
  Plan plan;
  const LoadMatrix zero(shape.ranks, shape.experts);
  SolvePlan(shape, zero.view(), options, &workspace, &plan);
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const LoadMatrix load = seed % 2 ? IntegerLoad(shape, seed)
                                     : LogNormalLoad(shape.ranks, shape.experts, 4, seed, {64, 8});
    const uint64_t before = allocations;
    SolvePlan(shape, load.view(), options, &workspace, &plan);
    EXPECT_EQ(allocations - before, 0) << "seed " << seed << " " << Text(shape);
  }
}

TEST(PlanDeterminism, NothingIsAllocatedAfterTheFirstPlanOfAShape) {
  for (const PlanShape shape : {PlanShape{64, 256, 2, 0}, PlanShape{8, 256, 2, 0},
                                PlanShape{8, 64, 1, 0}, PlanShape{32, 128, 1, 8}}) {
    PlanOptions options;
    ExpectNoAllocation(shape, options);
    options.epsilon_ppm = 0;
    ExpectNoAllocation(shape, options);
    options.cost = {1000, 200'000, 50'000};
    options.tile_tokens = 16;
    options.speeds.assign(shape.ranks, kFullSpeed);
    options.without_slots.assign(shape.ranks, 0);
    options.speeds[1] /= 2;
    options.without_slots[2] = 1;
    ExpectNoAllocation(shape, options);
  }
}

}  // namespace
}  // namespace ultraep::test

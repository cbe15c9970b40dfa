#include "protocol/check_plan.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <vector>

namespace ultraep {
namespace {

constexpr PlanShape kShape{4, 8, 2, 2};  // experts 0,1 on rank 0 ... 6,7 on rank 3; domains of two

std::vector<Replica> Legal() {
  return {{0, 1, 0, -1, 0, 30}, {1, 1, 1, -1, 0, 100}, {6, 2, 0, -1, 0, 1}};
}

PlanFault Check(const std::vector<Replica>& plan, const PlanShape& shape = kShape) {
  return PlanChecker().Check(shape, plan, [](uint32_t) { return uint64_t{100}; });
}

// Changes the legal plan and expects exactly this complaint.
void ExpectFault(const std::function<void(std::vector<Replica>*)>& change, const std::string& what,
                 const PlanShape& shape = kShape) {
  std::vector<Replica> plan = Legal();
  change(&plan);
  const PlanFault fault = Check(plan, shape);
  ASSERT_TRUE(fault) << "accepted: " << what;
  EXPECT_EQ(fault.what, what);
}

using Plans = std::vector<Replica>*;

TEST(CheckPlan, AcceptsALegalPlan) {
  EXPECT_FALSE(Check(Legal())) << Check(Legal()).text();
  EXPECT_EQ(Check(Legal()).text(), "legal");
}

TEST(CheckPlan, AcceptsThePlainPlacement) { EXPECT_FALSE(Check({})); }

TEST(CheckPlan, AcceptsAChainOfTransfersOfOneExpert) {
  const PlanShape shape{4, 8, 2, 0};
  EXPECT_FALSE(Check({{0, 1, 0, -1, 0, 10}, {0, 2, 0, 0, 0, 10}, {0, 3, 0, 1, 0, 10}}, shape));
}

TEST(CheckPlan, RefusesMoreReplicasThanSlots) {
  ExpectFault([](Plans p) { p->resize(9, (*p)[0]); }, "more replicas than slots");
}

TEST(CheckPlan, RefusesNumbersOutOfRange) {
  ExpectFault([](Plans p) { (*p)[0].expert = 8; }, "expert out of range");
  ExpectFault([](Plans p) { (*p)[0].expert = UINT32_MAX; }, "expert out of range");
  ExpectFault([](Plans p) { (*p)[0].rank = 4; }, "rank out of range");
  ExpectFault([](Plans p) { (*p)[0].slot = 2; }, "slot out of range");
  ExpectFault([](Plans p) { (*p)[0].slot = 0xffff; }, "slot out of range");
}

TEST(CheckPlan, RefusesAReplicaBesideItsMainCopy) {
  ExpectFault([](Plans p) { (*p)[0].rank = 0; }, "replica on the expert's home rank");
}

TEST(CheckPlan, RefusesAReplicaOutsideTheScaleUpDomain) {
  ExpectFault([](Plans p) { (*p)[0].rank = 2; }, "replica outside the home's scale-up domain");
}

TEST(CheckPlan, RefusesASlotUsedTwice) {
  ExpectFault([](Plans p) { (*p)[1].slot = 0; }, "slot used twice");
}

TEST(CheckPlan, RefusesTwoCopiesOfAnExpertOnARank) {
  ExpectFault([](Plans p) { (*p)[1].expert = 0; }, "two copies of an expert on a rank");
}

TEST(CheckPlan, RefusesAParentThatIsNotAnEarlierTransferOfTheSameExpert) {
  ExpectFault([](Plans p) { (*p)[0].parent = 0; }, "parent is not an earlier transfer");
  ExpectFault([](Plans p) { (*p)[0].parent = 2; }, "parent is not an earlier transfer");
  ExpectFault([](Plans p) { (*p)[0].parent = INT32_MAX; }, "parent is not an earlier transfer");
  ExpectFault([](Plans p) { (*p)[2].parent = -2; }, "parent below -1");
  ExpectFault([](Plans p) { (*p)[2].parent = INT32_MIN; }, "parent below -1");
  ExpectFault([](Plans p) { (*p)[2].parent = 0; }, "parent carries another expert");
}

TEST(CheckPlan, RefusesQuotasThatDoNotAddUp) {
  ExpectFault([](Plans p) { (*p)[0].tokens = 0; }, "replica without tokens");
  ExpectFault([](Plans p) { (*p)[0].tokens = 101; }, "quotas exceed the expert's load");
  ExpectFault([](Plans p) { (*p)[0].tokens = UINT64_MAX; }, "quotas exceed the expert's load");
  // Each fits alone, together they do not.
  const PlanShape shape{4, 8, 2, 0};
  ExpectFault(
      [](Plans p) {
        *p = {{0, 1, 0, -1, 0, 60}, {0, 2, 0, -1, 0, 41}};
      },
      "quotas exceed the expert's load", shape);
  ExpectFault(
      [](Plans p) {
        *p = {{0, 1, 0, -1, 0, 60}, {0, 2, 0, -1, 0, UINT64_MAX - 50}};
      },
      "quotas exceed the expert's load", shape);
}

TEST(CheckPlan, TheFaultNamesReplicaValueAndLimit) {
  std::vector<Replica> plan = Legal();
  plan[2].slot = 7;
  EXPECT_EQ(Check(plan).text(), "replica 2: slot out of range (value 7, limit 1)");
}

TEST(CheckPlan, AUsedCheckerForgetsTheLastPlan) {
  PlanChecker checker;
  const auto tokens = [](uint32_t) { return uint64_t{100}; };
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(checker.Check(kShape, Legal(), tokens));
}

TEST(CheckShape, AcceptsTheLimitsAndNamesWhatIsBeyond) {
  EXPECT_EQ(CheckShape({1, 1, 0, 0}), "");
  EXPECT_EQ(CheckShape({kMaxRanks, kMaxExperts, kMaxSlotsPerRank, kMaxRanks}), "");
  EXPECT_EQ(CheckShape({0, 8, 1, 0}), "ranks is 0, must be 1..512");
  EXPECT_EQ(CheckShape({513, 513, 1, 0}), "ranks is 513, must be 1..512");
  EXPECT_EQ(CheckShape({4, 0, 1, 0}), "experts is 0, must be 1..4096");
  EXPECT_EQ(CheckShape({1, 4097, 1, 0}), "experts is 4097, must be 1..4096");
  EXPECT_EQ(CheckShape({4, 10, 1, 0}), "experts is 10, must be a multiple of ranks (4)");
  EXPECT_EQ(CheckShape({4, 8, 33, 0}), "slots is 33, must be 0..32");
  EXPECT_EQ(CheckShape({4, 8, 1, 3}), "domain_size is 3, must be 0 or a divisor of ranks (4)");
}

}  // namespace
}  // namespace ultraep

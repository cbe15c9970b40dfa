#include "tests/daemon/cli/doctor/made_machine.h"
#include "tests/daemon/cli/made_group.h"

namespace ultraep {
namespace {

TEST_F(DoctorTest, GroupsAreWellWithoutTrouble) {
  Expect(CheckGroups, Level::kNote, "not known", "");
  Answer();
  Expect(CheckGroups, Level::kOk, "no groups", "");
  Answer({MadeGroup("job", 1000)});
  answer_.daemon.lease_ns = 5'000'000'000;
  Expect(CheckGroups, Level::kOk, "job: 4 ranks ready, imbalance 1.500 -> 1.020", "");
}

TEST_F(DoctorTest, MissingRanksAndGatesThatAreNotOpen) {
  StatusGroup g = MadeGroup("job", 1000);
  g.gate_state = 2;
  Answer({g});
  Expect(CheckGroups, Level::kWarn, "the gate is ended", "ultraepctl events --group job");
  g.members[2] = uint8_t(MemberState::kGone);
  Answer({g});
  Expect(CheckGroups, Level::kWarn, "rank 2 gone", "same name, nonce and rank");
}

TEST_F(DoctorTest, HeartbeatsNearTheLease) {
  StatusGroup g = MadeGroup("job", 1000);
  g.heartbeat_age_ns = 2'600'000'000;
  Answer({g});
  answer_.daemon.lease_ns = 6'000'000'000;
  Expect(CheckGroups, Level::kOk, "job", "");
  answer_.daemon.lease_ns = 5'000'000'000;
  Expect(CheckGroups, Level::kWarn, "2.6 s old, it is fenced at 5.0 s", "--lease_ms");
}

TEST_F(DoctorTest, FallbacksByTheirMainReason) {
  StatusGroup g = MadeGroup("job", 990);
  g.counters.fallback_deadline = 10;
  Answer({g});
  Expect(CheckGroups, Level::kOk, "job", "");
  g.counters.fallback_deadline = 11;
  Answer({g});
  Expect(CheckGroups, Level::kWarn, "11 of 1001 steps fell back: 11 deadline", "solve_deadline");
  g.counters.fallback_order = 12;
  Answer({g});
  Expect(CheckGroups, Level::kWarn, "12 order", "different orders");
  g.counters.fallback_bad_row = 13;
  Answer({g});
  Expect(CheckGroups, Level::kWarn, "13 bad row", "report it");
}

TEST_F(DoctorTest, MoreSlotsWouldHelp) {
  StatusGroup g = MadeGroup("job", 1000);
  g.counters.lower_bound_sum = 96 * 1000;  // plans are 6 % above it
  Answer({g});
  Expect(CheckGroups, Level::kNote, "6 % above", "more slots");
  g.counters.lower_bound_sum = 106 * 1000;
  Answer({g});
  Expect(CheckGroups, Level::kNote, "better than imbalance 1.060 with 2 slots", "more slots");
}

TEST_F(DoctorTest, EachTroubleOfAGroupIsAFinding) {
  StatusGroup g = MadeGroup("job", 10);
  g.members[2] = uint8_t(MemberState::kGone);
  g.counters.fallback_deadline = 10;
  Answer({g, MadeGroup("well", 1)});
  const std::vector<Finding> findings = CheckGroups(examined());
  ASSERT_EQ(findings.size(), 3u);
  EXPECT_EQ(findings[2].level, Level::kOk);
}

}  // namespace
}  // namespace ultraep

#include "daemon/cli/event_line.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

Event Made(EventKind kind) {
  Event e;
  e.time_ns = 1'795'718'663'123'000'000;
  e.kind = uint16_t(kind);
  e.rank = 3;
  e.sequence = 7;
  e.layer = 2;
  e.microbatch = 1;
  SetText(e.group, "job");
  return e;
}

TEST(EventLineTest, ALineHasTimeGroupKindAndWhat) {
  Event e = Made(EventKind::kFallback);
  e.reason = uint16_t(FallbackReason::kDeadline);
  EXPECT_EQ(EventLine(e, false),
            "2026-11-26T18:44:23.123Z  job               fallback  step 7, layer 2, microbatch 1: "
            "no plan within a rank's solve_deadline");
}

TEST(EventLineTest, APlanIsTold) {
  Event e = Made(EventKind::kPlan);
  e.value = 4;
  e.tokens = 400;
  e.peak_before = 150;
  e.peak = 102;
  e.replicas = 3;
  e.latency_ns = 15'000;
  EXPECT_EQ(EventText(e),
            "plan      step 7, layer 2, microbatch 1: imbalance 1.500 -> 1.020, 3 replicas, solved "
            "in 15 us");
}

TEST(EventLineTest, AFallbackWithoutARowNamesTheStepOnly) {
  Event e = Made(EventKind::kFallback);
  e.layer = UINT32_MAX;
  EXPECT_EQ(EventText(e), "fallback  step 7: unknown reason");
}

TEST(EventLineTest, RanksOfAnotherPidNamespaceHaveNoPid) {
  Event e = Made(EventKind::kJoined);
  EXPECT_EQ(EventText(e), "joined    rank 3");
  e.value = 42;
  EXPECT_EQ(EventText(e), "joined    rank 3, pid 42");
}

TEST(EventLineTest, TextOfAPeerCannotMoveTheCursor) {
  Event e = Made(EventKind::kRefused);
  SetText(e.text, "\033[2Jlayers\nis 5\x9b");
  EXPECT_EQ(EventText(e), "refused   pid 0: ?[2Jlayers?is 5?");
}

TEST(EventLineTest, TroubleHasAColour) {
  EXPECT_NE(EventLine(Made(EventKind::kGone), true).find("\033[31m"), std::string::npos);
  EXPECT_EQ(EventLine(Made(EventKind::kJoined), true).find("\033[31m"), std::string::npos);
  EXPECT_EQ(EventLine(Made(EventKind::kGone), false).find('\033'), std::string::npos);
}

}  // namespace
}  // namespace ultraep

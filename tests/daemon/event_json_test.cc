#include "daemon/event_json.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

Event Made(EventKind kind) {
  Event e;
  e.time_ns = 1'795'718'663'123'456'789;  // 2026-11-26T18:44:23 UTC
  e.kind = uint16_t(kind);
  e.rank = 3;
  e.sequence = 7;
  e.layer = 2;
  e.microbatch = 1;
  SetText(e.group, "job");
  return e;
}

TEST(EventJsonTest, TimesAreUtcWithMilliseconds) {
  EXPECT_EQ(IsoTime(1'795'718'663'123'456'789), "2026-11-26T18:44:23.123Z");
  EXPECT_EQ(IsoTime(0), "1970-01-01T00:00:00.000Z");
}

TEST(EventJsonTest, APlanHasItsImbalanceAndCost) {
  Event e = Made(EventKind::kPlan);
  e.value = 4;
  e.tokens = 400;
  e.peak_before = 150;
  e.peak = 102;
  e.replicas = 3;
  e.latency_ns = 1500;
  const Json json = EventJson(e);
  EXPECT_EQ(json["event"], "plan");
  EXPECT_EQ(json["group"], "job");
  EXPECT_EQ(json["step"], 7);
  EXPECT_DOUBLE_EQ(json["imbalance_before"], 1.5);
  EXPECT_DOUBLE_EQ(json["imbalance_after"], 1.02);
  EXPECT_DOUBLE_EQ(json["solve_us"], 1.5);
  EXPECT_FALSE(json.contains("rank"));
}

TEST(EventJsonTest, AFallbackHasItsReasonAndTheLayerWhenARowWasSeen) {
  Event e = Made(EventKind::kFallback);
  e.reason = uint16_t(FallbackReason::kOrderMismatch);
  EXPECT_EQ(EventJson(e)["reason"], "order_mismatch");
  EXPECT_EQ(EventJson(e)["layer"], 2);
  e.layer = UINT32_MAX;
  EXPECT_FALSE(EventJson(e).contains("layer"));
}

TEST(EventJsonTest, EachKindSaysWhatItHas) {
  EXPECT_EQ(EventJson(Made(EventKind::kGone))["rank"], 3);
  EXPECT_EQ(EventJson(Made(EventKind::kOpened))["first_planned_step"], 7);
  Event created = Made(EventKind::kCreated);
  created.value = 4096;
  EXPECT_EQ(EventJson(created)["memory_bytes"], 4096);
  Event refused = Made(EventKind::kRefused);
  refused.group[0] = 0;
  refused.value = 42;
  SetText(refused.text, "why");
  const Json json = EventJson(refused);
  EXPECT_FALSE(json.contains("group"));
  EXPECT_EQ(json["pid"], 42);
  EXPECT_EQ(json["text"], "why");
}

TEST(EventJsonTest, TroubleIsWhatSomebodyMustLookAt) {
  for (const EventKind kind : {EventKind::kFallback, EventKind::kGone, EventKind::kFenced,
                               EventKind::kFailed, EventKind::kRefused})
    EXPECT_TRUE(IsTrouble(Made(kind))) << EventName(uint16_t(kind));
  for (const EventKind kind : {EventKind::kPlan, EventKind::kJoined, EventKind::kOpened,
                               EventKind::kLeft, EventKind::kCreated, EventKind::kClosed})
    EXPECT_FALSE(IsTrouble(Made(kind))) << EventName(uint16_t(kind));
}

TEST(EventJsonTest, UnknownKindsOfALaterRelease) {
  EXPECT_EQ(EventJson(Made(EventKind(99)))["event"], "unknown");
  EXPECT_STREQ(ReasonName(99), "unknown");
}

}  // namespace
}  // namespace ultraep

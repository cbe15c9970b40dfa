#include "daemon/status_json.h"

#include <gtest/gtest.h>

#include "tests/daemon/cli/made_group.h"

namespace ultraep {
namespace {

TEST(StatusJsonTest, TheNumbersAreThoseWorkedOutByHand) {
  StatusGroup g = MadeGroup("job", 10);
  g.counters.last_tokens = 400;
  g.counters.last_peak_before = 200;
  g.counters.last_peak = 110;
  const Json json = GroupJson(g);
  EXPECT_EQ(json["steps_planned"], 10);
  EXPECT_DOUBLE_EQ(json["imbalance_before"], 1.5);
  EXPECT_DOUBLE_EQ(json["imbalance_after"], 1.02);
  EXPECT_DOUBLE_EQ(json["imbalance_floor"], 1.0);
  EXPECT_NEAR(json["gap"].get<double>(), 0.02, 1e-12);
  EXPECT_EQ(json["tokens_avoided"], 480);
  EXPECT_DOUBLE_EQ(json["last_imbalance_before"], 2.0);
  EXPECT_DOUBLE_EQ(json["last_imbalance_after"], 1.1);
  // All in the bucket (10, 20] us: its middle, linearly.
  EXPECT_DOUBLE_EQ(json["solve_us"]["p50"], 15.0);
  EXPECT_EQ(json["latencies"]["solve"]["count"], 10);
  EXPECT_DOUBLE_EQ(json["latencies"]["plan"]["mean_us"], 25.0);
  EXPECT_EQ(json["members"], Json({"ready", "ready", "ready", "ready"}));
}

TEST(StatusJsonTest, FallbacksAddUpAndKeepTheirReasons) {
  StatusGroup g = MadeGroup("job", 1);
  g.counters.fallback_deadline = 1;
  g.counters.fallback_order = 20;
  g.counters.fallback_bad_row = 300;
  const Json json = GroupJson(g);
  EXPECT_EQ(json["steps_fallback"], 321);
  EXPECT_EQ(json["fallback_deadline"], 1);
  EXPECT_EQ(json["order_mismatch"], 20);
  EXPECT_EQ(json["bad_rows"], 300);
}

TEST(StatusJsonTest, AGroupWithoutStepsIsBalancedAndHasNoNaN) {
  const std::string line = OneLine(GroupJson(MadeGroup("job", 0)));
  EXPECT_EQ(line.find("null"), line.npos) << line;
  EXPECT_NE(line.find("\"imbalance_before\":1.0"), line.npos) << line;
}

TEST(StatusJsonTest, WhereSlotsAre) {
  StatusGroup g = MadeGroup("job", 1);
  EXPECT_EQ(GroupJson(g)["slots_in"], "host");
  g.config.memory = MemoryKind::kCuda;
  EXPECT_EQ(GroupJson(g)["slots_in"], "cuda, ranks own");
  g.config.memory = MemoryKind::kCudaDaemon;
  g.device_bytes = 5 << 20;
  SetText(g.device, "NVIDIA H100");
  EXPECT_EQ(GroupJson(g)["slots_in"], "cuda, daemon owns");
  EXPECT_EQ(GroupJson(g)["device"], "NVIDIA H100");
  EXPECT_EQ(GroupJson(g)["device_bytes_per_rank"], 5 << 20);
}

TEST(StatusJsonTest, TheDaemonsGpus) {
  StatusDaemon daemon;
  EXPECT_EQ(StatusJson(daemon, {})["daemon"]["cuda"]["state"], "off");
  daemon.cuda = CudaUse::kMissing;
  SetText(daemon.cuda_found, "no CUDA backend");
  Json json = StatusJson(daemon, {})["daemon"]["cuda"];
  EXPECT_EQ(json["state"], "missing");
  EXPECT_EQ(json["driver"], "none");
  EXPECT_EQ(json["found"], "no CUDA backend");
  daemon.cuda = CudaUse::kOpen;
  daemon.cuda_devices = 8;
  daemon.cuda_driver = 13010;
  json = StatusJson(daemon, {})["daemon"]["cuda"];
  EXPECT_EQ(json["devices"], 8);
  EXPECT_EQ(json["driver"], "13.1");
}

TEST(StatusJsonTest, RefusalsAreCountedByKind) {
  StatusDaemon daemon;
  daemon.refused[uint32_t(RefusalKind::kDisagree)] = 2;
  daemon.refused[uint32_t(RefusalKind::kSystem)] = 5;
  const Json json = StatusJson(daemon, {})["daemon"];
  EXPECT_EQ(json["refused"], 7);
  EXPECT_EQ(json["refused_by_kind"]["disagree"], 2);
  EXPECT_EQ(json["refused_by_kind"]["system"], 5);
}

TEST(StatusJsonTest, CountersReadOneAfterTheOtherGiveNoHugeNumber) {
  GroupCounters c;
  c.peak_before_sum = 100;
  c.peak_sum = 101;
  EXPECT_EQ(TokensAvoided(c), 0u);
}

TEST(StatusJsonTest, NamesThatAreNotUtf8DoNotEndTheProgram) {
  EXPECT_NE(OneLine(GroupJson(MadeGroup("\xff\xfe", 1))).find("steps_planned"), std::string::npos);
}

TEST(StatusJsonTest, UnknownStatesAreNamedSo) {
  EXPECT_STREQ(GateName(99), "unknown");
  EXPECT_STREQ(MemberName(99), "unknown");
}

}  // namespace
}  // namespace ultraep

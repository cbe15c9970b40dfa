#include "daemon/cli/status_table.h"

#include <gtest/gtest.h>

#include "daemon/cli/group_text.h"
#include "tests/daemon/cli/made_group.h"

namespace ultraep {
namespace {

std::string Table(const StatusDaemon& daemon, const std::vector<StatusGroup>& groups) {
  std::string all;
  for (const std::string& line : StatusTable("/s", daemon, groups, false)) all += line + "\n";
  return all;
}

void ExpectHolds(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), text.npos) << "no '" << part << "' in\n" << text;
}
void ExpectLacks(const std::string& text, const std::string& part) {
  EXPECT_EQ(text.find(part), text.npos) << "'" << part << "' in\n" << text;
}

TEST(StatusTableTest, AGroupsNumbersGainAndPrice) {
  StatusGroup g = MadeGroup("job", 1000);
  for (int i = 0; i < 8; ++i) CountLatencyAlone(&g.ranks.stream, 1'000'000);
  const std::string table = Table({}, {g});
  ExpectHolds(table,
              "job       4/4    open      16     2      1000        0   1.500   1.020      3.0");
  ExpectHolds(table, "gain       the fullest ranks had 48.0 k tokens less, 32.0 % of theirs\n");
  ExpectHolds(table, "price      planning 25 ms, per rank streaming 2.0 ms\n");
  ExpectHolds(table, "optimum    2.0 % above");
  ExpectLacks(table, "fallbacks");
  ExpectLacks(table, "losses");
  ExpectLacks(table, "reduc");
}

TEST(StatusTableTest, TimeWonWhenATokensCostIsKnown) {
  StatusDaemon daemon;
  daemon.cost_token_ps = 2'000'000;  // 2 us
  ExpectHolds(Table(daemon, {MadeGroup("job", 1000)}),
              "32.0 % of theirs: 96 ms by --cost_token_ns");
}

TEST(StatusTableTest, TroubleIsSaid) {
  StatusGroup g = MadeGroup("job", 10);
  g.members[1] = uint8_t(MemberState::kGone);
  g.counters.fallback_deadline = 7;
  g.counters.fallback_bad_row = 1;
  g.counters.members_gone = 1;
  g.ranks.declined = 12;
  const std::string table = Table({}, {g});
  ExpectHolds(table, " 3/4 ");
  ExpectHolds(table, "  rank 1 gone\n");
  ExpectHolds(table, "fallbacks  7 deadline, 1 bad row");
  ExpectHolds(table, "losses     1 gone; generations made: 1");
  ExpectHolds(table, "ranks      12 steps declined");
}

TEST(StatusTableTest, WhereSlotsOnGpusAre) {
  StatusGroup g = MadeGroup("job", 10);
  ExpectLacks(Table({}, {g}), "slots  ");
  ExpectLacks(Table({}, {g}), "GPUs");
  g.config.memory = MemoryKind::kCuda;
  g.device_bytes = 4 << 20;
  SetText(g.device, "NVIDIA H100");
  StatusDaemon daemon;
  daemon.cuda = CudaUse::kOpen;
  daemon.cuda_devices = 8;
  daemon.cuda_driver = 13000;
  const std::string table = Table(daemon, {g});
  ExpectHolds(table, "  GPUs 8, driver 13.0");
  ExpectHolds(table, "slots      cuda, ranks own: 4.00 MiB of each rank's NVIDIA H100");
}

TEST(StatusTableTest, TheDaemonsLines) {
  StatusDaemon daemon;
  SetText(daemon.build, "9.8\0337");
  daemon.connections = 5;
  daemon.max_connections = 100;
  daemon.memory_bytes = 1 << 20;
  daemon.memory_limit_bytes = 2 << 20;
  daemon.refused[uint32_t(RefusalKind::kDisagree)] = 3;
  daemon.metrics_port = 1234;
  daemon.traces = 1;
  daemon.trace_dropped = 9;
  const std::string table = Table(daemon, {});
  ExpectHolds(table, "ultraepd 9.8?7 ");
  ExpectHolds(table, "http://127.0.0.1:1234");
  ExpectHolds(table, "connections 5 of 100  memory 1.00 MiB of 2.00 MiB  refused 3 disagree");
  ExpectHolds(table, "recordings 1, 9 steps not recorded");
  ExpectHolds(table, "no groups");
}

TEST(StatusTableTest, QuietAsksForOpenGatesAndReadyRanks) {
  EXPECT_TRUE(AllPlanned({}));
  EXPECT_TRUE(AllPlanned({MadeGroup("a", 1)}));
  StatusGroup closed = MadeGroup("b", 1), lacking = MadeGroup("c", 1);
  closed.gate_state = 0;
  lacking.members[3] = uint8_t(MemberState::kFenced);
  EXPECT_FALSE(AllPlanned({MadeGroup("a", 1), closed}));
  EXPECT_FALSE(AllPlanned({lacking}));
}

TEST(GroupTextTest, RanksInOneStateAreOneRange) {
  StatusGroup g = MadeGroup("job", 0);
  EXPECT_EQ(NotReadyText(g), "");
  g.members[0] = g.members[1] = uint8_t(MemberState::kAbsent);
  g.members[3] = uint8_t(MemberState::kFenced);
  EXPECT_EQ(NotReadyText(g), "ranks 0-1 absent, rank 3 fenced");
}

}  // namespace
}  // namespace ultraep

#include "tests/daemon/cli/doctor/made_machine.h"
#include "tests/daemon/cli/made_group.h"

namespace ultraep {
namespace {

std::string Limits(const std::string& files, const std::string& locked) {
  return "Limit                     Soft Limit           Hard Limit           Units\n"
         "Max open files            1024                 " +
         files +
         "              files\n"
         "Max locked memory         65536                " +
         locked + "         bytes";
}

TEST_F(DoctorTest, OpenFilesNeedRoomForTheConnections) {
  Expect(CheckOpenFiles, Level::kNote, "cannot be read", "");
  Put("/proc/self/limits", Limits("4096", "65536"));
  Expect(CheckOpenFiles, Level::kWarn, "room for 506 connections", "LimitNOFILE");
  Put("/proc/self/limits", Limits("524288", "65536"));
  Expect(CheckOpenFiles, Level::kOk, "524288", "");
  Put("/proc/self/limits", Limits("unlimited", "65536"));
  Expect(CheckOpenFiles, Level::kOk, "unlimited", "");
}

TEST_F(DoctorTest, TheDaemonsLimitsCountWhenItAnswers) {
  Put("/proc/self/limits", Limits("524288", "unlimited"));
  Put("/proc/42/limits", Limits("1024", "65536"));
  Expect(CheckOpenFiles, Level::kOk, "this shell", "");
  Answer();
  answer_.daemon.max_connections = 165;
  Expect(CheckOpenFiles, Level::kWarn, "of the daemon: room for 122", "LimitNOFILE");
  Put("/proc/42/comm", "another");
  Expect(CheckOpenFiles, Level::kOk, "this shell", "");
}

TEST_F(DoctorTest, ConnectionsThatAreNearlyAllTaken) {
  Put("/proc/42/limits", Limits("524288", "65536"));
  Answer();
  answer_.daemon.max_connections = 100;
  answer_.daemon.connections = 80;
  Expect(CheckOpenFiles, Level::kOk, "", "");
  answer_.daemon.connections = 81;
  Expect(CheckOpenFiles, Level::kWarn, "81 of 100", "--max_connections");
}

TEST_F(DoctorTest, LockedMemory) {
  Put("/proc/self/limits", Limits("1024", "65536"));
  Expect(CheckLockedMemory, Level::kNote, "64.0 KiB", "LimitMEMLOCK");
  Put("/proc/self/limits", Limits("1024", "unlimited"));
  Expect(CheckLockedMemory, Level::kOk, "unlimited", "");
}

TEST_F(DoctorTest, ACpuForEachRankAndOneForThePlanner) {
  Expect(CheckCpus, Level::kNote, "cannot be read", "");
  Put("/proc/self/status", "Name:\tsh\nCpus_allowed_list:\t3\nMems_allowed:\t1");
  Expect(CheckCpus, Level::kWarn, "1 CPUs (3)", "AllowedCPUs");
  Put("/proc/self/status", "Name:\tsh\nCpus_allowed_list:\t0-3,8\nMems_allowed:\t1");
  Expect(CheckCpus, Level::kOk, "5 CPUs (0-3,8)", "");
  Answer({MadeGroup("a", 1)});
  Put("/proc/42/status", "Name:\tultraepd\nCpus_allowed_list:\t0-3\nMems_allowed:\t1");
  answer_.daemon.spin_us = 10000;
  Expect(CheckCpus, Level::kWarn, "4 CPUs (0-3) for the daemon and 4 ranks", "AllowedCPUs");
  Put("/proc/42/status", "Name:\tultraepd\nCpus_allowed_list:\t0-4\nMems_allowed:\t1");
  Expect(CheckCpus, Level::kOk, "5 CPUs", "");
  answer_.daemon.spin_us = 0;
  Expect(CheckCpus, Level::kNote, "does not spin", "--spin_us");
}

TEST_F(DoctorTest, CpuQuotasOfAnyLevel) {
  Put("/proc/self/cgroup", "0::/system.slice/ultraepd.service");
  Expect(CheckCpuQuota, Level::kOk, "none", "");
  Put("/sys/fs/cgroup/system.slice/ultraepd.service/cpu.max", "max 100000");
  Expect(CheckCpuQuota, Level::kOk, "none", "");
  Put("/sys/fs/cgroup/system.slice/cpu.max", "150000 100000");
  Expect(CheckCpuQuota, Level::kWarn, "1.5 CPUs by /sys/fs/cgroup/system.slice", "CPUQuota");
  Put("/sys/fs/cgroup/system.slice/cpu.max", "400000 100000");
  Expect(CheckCpuQuota, Level::kNote, "4.0 CPUs", "");
  Put("/sys/fs/cgroup/system.slice/cpu.stat", "nr_periods 90\nnr_throttled 7");
  Expect(CheckCpuQuota, Level::kWarn, "throttled 7 times", "CPUQuota");
}

TEST_F(DoctorTest, CpuQuotasOfVersion1) {
  Put("/proc/self/cgroup", "4:cpu,cpuacct:/job\n3:memory:/\n0::/");
  Put("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "-1");
  Put("/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "50000");
  Expect(CheckCpuQuota, Level::kOk, "none", "");
  Put("/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "50000");
  Expect(CheckCpuQuota, Level::kWarn, "1.0 CPUs by /sys/fs/cgroup/cpu/job", "CPUQuota");
}

TEST_F(DoctorTest, NumaNodes) {
  Expect(CheckNuma, Level::kOk, "one node", "");
  Put("/sys/devices/system/node/online", "0-1");
  Expect(CheckNuma, Level::kNote, "2 nodes", "numactl");
}

TEST(CountOfListTest, RangesAndSingleNumbers) {
  EXPECT_EQ(CountOfList(""), 0u);
  EXPECT_EQ(CountOfList("0"), 1u);
  EXPECT_EQ(CountOfList("0-3,8,10-11"), 7u);
  EXPECT_EQ(CountOfList("5-2,x"), 0u);
}

}  // namespace
}  // namespace ultraep

#include "tests/daemon/cli/doctor/made_machine.h"

namespace ultraep {
namespace {

constexpr uint64_t kGiB = 1 << 30;

std::string Meminfo(uint64_t available_gib, const std::string& more = "") {
  return "MemTotal:       67108864 kB\nMemFree: 1 kB\nMemAvailable: " +
         std::to_string(available_gib << 20) + " kB\n" + more;
}

TEST_F(DoctorTest, MemoryIsEnoughForWhatTheDaemonMayGive) {
  Put("/proc/meminfo", Meminfo(0));
  Expect(CheckMemory, Level::kWarn, "0 B available of 64.0 GiB", "free memory");
  Put("/proc/meminfo", Meminfo(32));
  Expect(CheckMemory, Level::kOk, "32.0 GiB available", "");
  Answer();
  answer_.daemon.memory_bytes = 10 * kGiB;
  answer_.daemon.memory_limit_bytes = 40 * kGiB;
  Expect(CheckMemory, Level::kOk, "groups hold 10.0 GiB", "");
  answer_.daemon.memory_limit_bytes = 50 * kGiB;
  // Eight tenths of 32 GiB, and the ten that they have.
  Expect(CheckMemory, Level::kWarn, "lets them have 50.0 GiB", "--memory_limit_mib 36454");
}

TEST_F(DoctorTest, ControlGroupsThatGiveLessThanTheDaemonWould) {
  Put("/proc/meminfo", Meminfo(32));
  Put("/proc/self/cgroup", "0::/a/b");
  Expect(CheckCgroupMemory, Level::kOk, "no limit", "");
  Put("/sys/fs/cgroup/a/b/memory.max", "max");
  Put("/sys/fs/cgroup/a/memory.max", std::to_string(60 * kGiB));
  Put("/sys/fs/cgroup/a/memory.current", std::to_string(kGiB));
  Expect(CheckCgroupMemory, Level::kOk, "60.0 GiB by /sys/fs/cgroup/a, 59.0 GiB left", "");
  Put("/sys/fs/cgroup/a/b/memory.max", std::to_string(10 * kGiB));
  Put("/sys/fs/cgroup/a/b/memory.current", std::to_string(2 * kGiB));
  // Eight tenths of the 8 GiB that are left.
  Expect(CheckCgroupMemory, Level::kWarn, "/sys/fs/cgroup/a/b, 8.00 GiB left",
         "--memory_limit_mib 6553");
  Answer();
  Put("/proc/42/cgroup", "0::/a/b");
  answer_.daemon.memory_limit_bytes = 7 * kGiB;
  Expect(CheckCgroupMemory, Level::kOk, "8.00 GiB left", "");
}

TEST_F(DoctorTest, ControlGroupsOfVersion1) {
  Put("/proc/meminfo", Meminfo(32));
  Put("/proc/self/cgroup", "3:memory:/job\n0::/");
  Put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712");
  Expect(CheckCgroupMemory, Level::kOk, "no limit", "");
  Put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", std::to_string(4 * kGiB));
  Put("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", std::to_string(kGiB));
  Expect(CheckCgroupMemory, Level::kWarn, "3.00 GiB left", "MemoryMax");
}

TEST_F(DoctorTest, StrictOvercommit) {
  Expect(CheckOvercommit, Level::kNote, "cannot be read", "");
  Put("/proc/sys/vm/overcommit_memory", "0");
  Expect(CheckOvercommit, Level::kOk, "is 0", "");
  Put("/proc/sys/vm/overcommit_memory", "2");
  Put("/proc/meminfo", Meminfo(32, "CommitLimit: 41943040 kB\nCommitted_AS: 5242880 kB\n"));
  Expect(CheckOvercommit, Level::kNote, "35.0 GiB of 40.0 GiB", "");
  Put("/proc/meminfo", Meminfo(32, "CommitLimit: 41943040 kB\nCommitted_AS: 31457280 kB\n"));
  Expect(CheckOvercommit, Level::kWarn, "10.0 GiB of 40.0 GiB", "overcommit_ratio");
}

TEST_F(DoctorTest, Mappings) {
  Expect(CheckMapCount, Level::kNote, "cannot be read", "");
  Put("/proc/sys/vm/max_map_count", "65530");
  Expect(CheckMapCount, Level::kOk, "65530", "");
  Put("/proc/sys/vm/max_map_count", "4096");
  Expect(CheckMapCount, Level::kWarn, "4096", "sysctl");
}

TEST_F(DoctorTest, HugePagesOfSharedMemory) {
  Expect(CheckHugePages, Level::kNote, "the kernel has none", "");
  const std::string file = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  Put(file, "always within_size advise [never] deny force");
  Expect(CheckHugePages, Level::kNote, "never: slots lie on small pages", "echo within_size");
  Put(file, "always [within_size] advise never deny force");
  Expect(CheckHugePages, Level::kOk, "within_size", "");
}

TEST_F(DoctorTest, HugePagesThatAreReserved) {
  Put("/proc/meminfo", Meminfo(32, "HugePages_Total:    1024\nHugepagesize:       2048 kB\n"));
  const std::vector<Finding> findings = CheckHugePages(examined());
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[1].level, Level::kNote);
  EXPECT_NE(findings[1].found.find("1024 explicit ones are reserved, 2.00 GiB"), std::string::npos)
      << findings[1].found;
}

TEST_F(DoctorTest, Swap) {
  Put("/proc/meminfo", Meminfo(32, "SwapTotal: 0 kB\n"));
  Expect(CheckSwap, Level::kOk, "none", "");
  Put("/proc/meminfo", Meminfo(32, "SwapTotal: 2097152 kB\n"));
  Expect(CheckSwap, Level::kNote, "2.00 GiB", "swapoff");
}

}  // namespace
}  // namespace ultraep

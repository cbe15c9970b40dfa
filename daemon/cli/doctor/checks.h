// The checks of `ultraepctl doctor`: each looks at one thing and says what it found.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/cli/doctor/machine.h"

namespace ultraep {

enum class Level { kOk = 0, kNote = 1, kWarn = 2, kFail = 3 };
inline constexpr const char* kLevels[] = {"ok", "note", "warn", "fail"};

struct Finding {
  Level level = Level::kOk;
  std::string found;
  std::string fix;  // a command or a setting; empty when there is nothing to do
};

struct Examined {
  const Machine& machine;
  const DaemonAnswer& answer;
  uint64_t deadline_ns = 0;  // CLOCK_MONOTONIC, for whoever must wait
};

struct Check {
  const char* name;
  std::vector<Finding> (*run)(const Examined& x);
};

// In the order of the report.
const std::vector<Check>& AllChecks();

// check_daemon.cc
std::vector<Finding> CheckSocket(const Examined& x);
std::vector<Finding> CheckDaemon(const Examined& x);
std::vector<Finding> CheckMetrics(const Examined& x);
std::vector<Finding> CheckRefusals(const Examined& x);
// check_groups.cc
std::vector<Finding> CheckGroups(const Examined& x);
// check_limits.cc
std::vector<Finding> CheckOpenFiles(const Examined& x);
std::vector<Finding> CheckLockedMemory(const Examined& x);
std::vector<Finding> CheckCpus(const Examined& x);
std::vector<Finding> CheckCpuQuota(const Examined& x);
std::vector<Finding> CheckNuma(const Examined& x);
// check_memory.cc
std::vector<Finding> CheckMemory(const Examined& x);
std::vector<Finding> CheckCgroupMemory(const Examined& x);
std::vector<Finding> CheckOvercommit(const Examined& x);
std::vector<Finding> CheckMapCount(const Examined& x);
std::vector<Finding> CheckHugePages(const Examined& x);
std::vector<Finding> CheckSwap(const Examined& x);
// check_system.cc
std::vector<Finding> CheckKernel(const Examined& x);
std::vector<Finding> CheckClockSource(const Examined& x);
std::vector<Finding> CheckTime(const Examined& x);
// check_gpu.cc
std::vector<Finding> CheckGpu(const Examined& x);
std::vector<Finding> CheckNccl(const Examined& x);

}  // namespace ultraep

// Kernel and clocks.
#include <cstdio>

#include "daemon/cli/doctor/checks.h"

namespace ultraep {
namespace {

constexpr int64_t kPlausible = 1735689600;  // 2025-01-01: before any release

}  // namespace

std::vector<Finding> CheckKernel(const Examined& x) {
  const std::string release = x.machine.Read("/proc/sys/kernel/osrelease");
  int major = 0, minor = 0;
  if (std::sscanf(release.c_str(), "%d.%d", &major, &minor) != 2)
    return {{Level::kNote, "the version cannot be read", ""}};
  const auto before = [&](int a, int b) { return major < a || (major == a && minor < b); };
  if (before(5, 1))
    return {{Level::kFail, release + " has no F_SEAL_FUTURE_WRITE, no group can be made",
             "Linux 5.1 or newer"}};
  if (before(5, 3))
    return {{Level::kWarn,
             release + " has no pidfd_open: a dead rank is noticed by its connection only",
             "Linux 5.3 or newer, better 6.5"}};
  if (before(6, 5))
    return {{Level::kNote,
             release + " has no SO_PEERPIDFD: a dead rank of another PID namespace (container) is "
                       "noticed by its connection only",
             "Linux 6.5 or newer, when ranks run in containers"}};
  return {{Level::kOk, release, ""}};
}

std::vector<Finding> CheckClockSource(const Examined& x) {
  const std::string source =
      x.machine.Read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  if (source.empty()) return {{Level::kNote, "the clock source cannot be read", ""}};
  for (const char* fast : {"tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"})
    if (source == fast) return {{Level::kOk, source, ""}};
  return {{Level::kWarn, source + ": every look at the clock is a system call, some 0.3 to 2 us",
           "clocksource=tsc on the kernel's command line, if the machine's TSC is stable"}};
}

std::vector<Finding> CheckTime(const Examined& x) {
  if (x.machine.unix_seconds < kPlausible)
    return {{Level::kWarn,
             "the clock is before 2025: times of events, metrics and traces are wrong",
             "timedatectl set-ntp true, or chronyd"}};
  if (!x.machine.clock_synchronized)
    return {{Level::kWarn, "not synchronised: times cannot be compared between machines",
             "timedatectl set-ntp true, or chronyd (in a container: on the host)"}};
  return {{Level::kOk, "synchronised", ""}};
}

}  // namespace ultraep

// What memory there is for slots, and how the kernel gives it.
#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "daemon/cli/doctor/checks.h"
#include "daemon/cli/terminal.h"

namespace ultraep {
namespace {

constexpr uint64_t kMiB = 1 << 20, kGiB = 1 << 30;
constexpr const char* kMeminfo = "/proc/meminfo";

uint64_t Meminfo(const Examined& x, const char* name) {
  return x.machine.Field(kMeminfo, name, 0) * 1024;
}

// What groups may get beyond what they hold now, by the daemon's own limits.
uint64_t MayGrow(const Examined& x) {
  const StatusDaemon& d = x.answer.daemon;
  const uint64_t available = Meminfo(x, "MemAvailable");
  if (!d.memory_limit_bytes) return available / 10 * 8;
  return d.memory_limit_bytes > d.memory_bytes ? d.memory_limit_bytes - d.memory_bytes : 0;
}

}  // namespace

std::vector<Finding> CheckMemory(const Examined& x) {
  const uint64_t available = Meminfo(x, "MemAvailable");
  std::string found = absl::StrFormat("%s available of %s", ShortBytes(available),
                                      ShortBytes(Meminfo(x, "MemTotal")));
  if (x.answer.answers()) found += ", groups hold " + ShortBytes(x.answer.daemon.memory_bytes);
  if (available < kGiB)
    return {{Level::kWarn, found, "free memory, or expect that groups are refused"}};
  const uint64_t limit = x.answer.daemon.memory_limit_bytes;
  if (limit && MayGrow(x) > available)
    return {{Level::kWarn,
             absl::StrFormat("%s; --memory_limit_mib lets them have %s", found, ShortBytes(limit)),
             absl::StrFormat("--memory_limit_mib %d",
                             (x.answer.daemon.memory_bytes + available / 10 * 8) / kMiB)}};
  return {{Level::kOk, found, ""}};
}

std::vector<Finding> CheckCgroupMemory(const Examined& x) {
  const Subject subject = SubjectOf(x.machine, x.answer);
  uint64_t left = UINT64_MAX, limit = 0;
  std::string where;
  ForEachCgroup(x.machine, subject, {"memory.max", "memory", "memory.limit_in_bytes"},
                [&](const std::string& text, const std::string& folder) {
                  const uint64_t most =
                      text == "max" ? UINT64_MAX : std::strtoull(text.c_str(), nullptr, 10);
                  if (most >= uint64_t{1} << 60)
                    return;  // version 1 says "none" with a large number
                  std::string used = x.machine.Read(folder + "/memory.current");
                  if (used.empty()) used = x.machine.Read(folder + "/memory.usage_in_bytes");
                  const uint64_t uses = std::strtoull(used.c_str(), nullptr, 10);
                  if (most - std::min(uses, most) >= left) return;
                  left = most - std::min(uses, most);
                  limit = most;
                  where = folder;
                });
  if (where.empty()) return {{Level::kOk, "no limit, for " + subject.who, ""}};
  const std::string found =
      absl::StrFormat("%s by %s, %s left", ShortBytes(limit), where, ShortBytes(left));
  if (MayGrow(x) <= left) return {{Level::kOk, found, ""}};
  return {
      {Level::kWarn,
       absl::StrFormat("%s; the daemon does not read it and would give groups %s more: the kernel "
                       "would kill it",
                       found, ShortBytes(MayGrow(x))),
       absl::StrFormat("--memory_limit_mib %d, or a larger MemoryMax=",
                       (x.answer.daemon.memory_bytes + left / 10 * 8) / kMiB)}};
}

std::vector<Finding> CheckOvercommit(const Examined& x) {
  const std::string mode = x.machine.Read("/proc/sys/vm/overcommit_memory");
  if (mode.empty()) return {{Level::kNote, "vm.overcommit_memory cannot be read", ""}};
  if (mode != "2") return {{Level::kOk, "vm.overcommit_memory is " + mode, ""}};
  const uint64_t limit = Meminfo(x, "CommitLimit"), used = Meminfo(x, "Committed_AS");
  const uint64_t left = limit > used ? limit - used : 0;
  const std::string found =
      absl::StrFormat("vm.overcommit_memory is 2: slots count, %s of %s are left", ShortBytes(left),
                      ShortBytes(limit));
  if (left > MayGrow(x)) return {{Level::kNote, found, ""}};
  return {{Level::kWarn, found + ", less than the daemon may give to groups",
           "sysctl -w vm.overcommit_memory=0, or a larger vm.overcommit_ratio"}};
}

// Every rank maps each segment of its group: boards and slots of all ranks, for some generations.
std::vector<Finding> CheckMapCount(const Examined& x) {
  constexpr uint64_t kLeast = 16384;
  const std::string text = x.machine.Read("/proc/sys/vm/max_map_count");
  if (text.empty()) return {{Level::kNote, "vm.max_map_count cannot be read", ""}};
  const uint64_t count = std::strtoull(text.c_str(), nullptr, 10);
  if (count >= kLeast) return {{Level::kOk, "vm.max_map_count is " + text, ""}};
  return {{Level::kWarn, "vm.max_map_count is " + text + ": frameworks and large groups need more",
           "sysctl -w vm.max_map_count=65530"}};
}

std::vector<Finding> CheckHugePages(const Examined& x) {
  std::vector<Finding> findings;
  const std::string file = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  const std::string modes = x.machine.Read(file);  // as in "always [never] force"
  const size_t begin = modes.find('['), end = modes.find(']');
  if (begin == modes.npos || end == modes.npos || end < begin) {
    findings.push_back({Level::kNote, "the kernel has none for shared memory", ""});
  } else {
    const std::string mode = modes.substr(begin + 1, end - begin - 1);
    if (mode == "always" || mode == "within_size" || mode == "force")
      findings.push_back({Level::kOk, "shared memory: " + mode, ""});
    else
      findings.push_back({Level::kNote, "shared memory: " + mode + ": slots lie on small pages",
                          "echo within_size > " + file});
  }
  const uint64_t reserved = x.machine.Field(kMeminfo, "HugePages_Total", 0);
  if (reserved)
    findings.push_back(
        {Level::kNote,
         absl::StrFormat("%d explicit ones are reserved, %s; ultraep uses none", reserved,
                         ShortBytes(reserved * Meminfo(x, "Hugepagesize"))),
         "sysctl -w vm.nr_hugepages=0, unless others use them"});
  return findings;
}

std::vector<Finding> CheckSwap(const Examined& x) {
  const uint64_t swap = Meminfo(x, "SwapTotal");
  if (!swap) return {{Level::kOk, "none", ""}};
  return {{Level::kNote, ShortBytes(swap) + ": slots may be swapped out, and steps wait for them",
           "swapoff -a, or MemorySwapMax=0 for the daemon and the ranks"}};
}

}  // namespace ultraep

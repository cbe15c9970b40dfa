// What the daemon may have: descriptors, locked memory, CPUs.
#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "daemon/cli/doctor/checks.h"
#include "daemon/cli/terminal.h"
#include "daemon/descriptor_budget.h"

namespace ultraep {
namespace {

constexpr uint64_t kConnectionsDefault = 2048;

// The hard limit, which the daemon takes; UINT64_MAX: unlimited, 0: not known.
uint64_t HardLimit(const Examined& x, const Subject& subject, const std::string& name) {
  const std::string text = "\n" + x.machine.Read(subject.folder + "/limits");
  const size_t at = text.find("\n" + name);
  if (at == text.npos) return 0;
  char soft[32] = {}, hard[32] = {};
  if (std::sscanf(text.c_str() + at + 1 + name.size(), "%31s %31s", soft, hard) != 2) return 0;
  return hard == std::string("unlimited") ? UINT64_MAX : std::strtoull(hard, nullptr, 10);
}

}  // namespace

std::vector<Finding> CheckOpenFiles(const Examined& x) {
  const Subject subject = SubjectOf(x.machine, x.answer);
  const uint64_t limit = HardLimit(x, subject, "Max open files");
  if (limit == 0) return {{Level::kNote, "the limit of open files cannot be read", ""}};
  const uint64_t fits =
      limit > kDescriptorsOwn ? (limit - kDescriptorsOwn) / kDescriptorsPerConnection : 0;
  const std::string found = absl::StrFormat(
      "%s open files, of %s", limit == UINT64_MAX ? "unlimited" : absl::StrFormat("%d", limit),
      subject.who);
  const StatusDaemon& d = x.answer.daemon;
  if (x.answer.answers() && uint64_t{d.connections} * 10 > uint64_t{d.max_connections} * 8)
    return {{Level::kWarn,
             absl::StrFormat("%d of %d connections are taken; %s", d.connections, d.max_connections,
                             found),
             "raise --max_connections, and LimitNOFILE to eight times as much"}};
  if (fits < kConnectionsDefault)
    return {{Level::kWarn, absl::StrFormat("%s: room for %d connections", found, fits),
             "LimitNOFILE=65536 in the unit, or `ulimit -Hn 65536` before ultraepd"}};
  return {{Level::kOk, found, ""}};
}

std::vector<Finding> CheckLockedMemory(const Examined& x) {
  const Subject subject = SubjectOf(x.machine, x.answer);
  const uint64_t limit = HardLimit(x, subject, "Max locked memory");
  if (limit == UINT64_MAX) return {{Level::kOk, "unlimited, of " + subject.who, ""}};
  return {{Level::kNote,
           ShortBytes(limit) + ", of " + subject.who + ": host memory needs none, RDMA does",
           "LimitMEMLOCK=infinity in the unit, when there is RDMA"}};
}

std::vector<Finding> CheckCpus(const Examined& x) {
  const Subject subject = SubjectOf(x.machine, x.answer);
  const std::string status = "\n" + x.machine.Read(subject.folder + "/status");
  const size_t at = status.find("\nCpus_allowed_list:");
  if (at == status.npos) return {{Level::kNote, "the allowed CPUs cannot be read", ""}};
  const size_t begin = status.find_first_of("0123456789", at);
  const std::string list =
      begin == status.npos ? "" : status.substr(begin, status.find('\n', begin) - begin);
  const uint32_t cpus = CountOfList(list);
  const uint32_t ranks = x.answer.ranks();
  const std::string have = absl::StrFormat("%d CPUs (%s) for %s", cpus, list, subject.who);
  if (ranks == 0 && cpus >= 2) return {{Level::kOk, have, ""}};
  if (cpus <= std::max(ranks, 1u))
    return {
        {Level::kWarn,
         absl::StrFormat("%s and %d ranks: nobody spins, each wake-up adds some 50 us to a step",
                         have, ranks),
         "allow a CPU for every rank and one for the planner (AllowedCPUs=, cpuset, taskset)"}};
  if (x.answer.answers() && x.answer.daemon.spin_us == 0)
    return {{Level::kNote,
             have + absl::StrFormat(" and %d ranks, but the planner does not spin", ranks),
             "leave --spin_us at its default"}};
  return {{Level::kOk, have + absl::StrFormat(" and %d ranks", ranks), ""}};
}

std::vector<Finding> CheckCpuQuota(const Examined& x) {
  const Subject subject = SubjectOf(x.machine, x.answer);
  double least = 1e9;
  std::string where;
  ForEachCgroup(x.machine, subject, {"cpu.max", "cpu", "cpu.cfs_quota_us"},
                [&](const std::string& text, const std::string& folder) {
                  double quota = -1, period = 1e5;
                  if (std::sscanf(text.c_str(), "%lf %lf", &quota, &period) < 1 || quota <= 0)
                    return;
                  const std::string old = x.machine.Read(folder + "/cpu.cfs_period_us");
                  if (!old.empty()) period = std::atof(old.c_str());
                  if (period <= 0 || quota / period >= least) return;
                  least = quota / period;
                  where = folder;
                });
  if (where.empty()) return {{Level::kOk, "none, for " + subject.who, ""}};
  const uint64_t throttled = x.machine.Field(where + "/cpu.stat", "nr_throttled", 0);
  const std::string found = absl::StrFormat("%.1f CPUs by %s", least, where);
  if (throttled || least < 2)
    return {{Level::kWarn,
             absl::StrFormat("%s, throttled %d times: the planner then stands still, longer than "
                             "solve_deadline",
                             found, throttled),
             "CPUQuota= (cpu.max) of 2 CPUs or more, or none; limit by AllowedCPUs= instead"}};
  return {{Level::kNote, found + ", never throttled", ""}};
}

std::vector<Finding> CheckNuma(const Examined& x) {
  const uint32_t nodes = CountOfList(x.machine.Read("/sys/devices/system/node/online"));
  if (nodes <= 1) return {{Level::kOk, "one node", ""}};
  return {{Level::kNote,
           absl::StrFormat("%d nodes: a rank's slots lie on its own node only if its CPUs all do",
                           nodes),
           "bind each rank to one node (numactl -N NODE, or CPU lists)"}};
}

}  // namespace ultraep

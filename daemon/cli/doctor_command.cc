// `ultraepctl doctor`: looks at daemon and machine, and says what to do.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/command.h"
#include "daemon/cli/daemon_connection.h"
#include "daemon/cli/doctor/checks.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/terminal.h"
#include "daemon/status_json.h"
#include "protocol/transport/waiting.h"

namespace ultraep {

const std::vector<Check>& AllChecks() {
  static const std::vector<Check> checks = {
      {"socket", CheckSocket},
      {"daemon", CheckDaemon},
      {"metrics", CheckMetrics},
      {"refusals", CheckRefusals},
      {"groups", CheckGroups},
      {"CPUs", CheckCpus},
      {"CPU quota", CheckCpuQuota},
      {"NUMA", CheckNuma},
      {"memory", CheckMemory},
      {"cgroup memory", CheckCgroupMemory},
      {"overcommit", CheckOvercommit},
      {"mappings", CheckMapCount},
      {"huge pages", CheckHugePages},
      {"swap", CheckSwap},
      {"open files", CheckOpenFiles},
      {"locked memory", CheckLockedMemory},
      {"kernel", CheckKernel},
      {"clock source", CheckClockSource},
      {"time", CheckTime},
      {"GPU", CheckGpu},
      {"NCCL", CheckNccl},
  };
  return checks;
}

namespace {

struct Report {
  std::vector<std::pair<const char*, Finding>> findings;
  uint32_t counts[4] = {};  // by level
};

Report Examine(const std::string& path, double timeout) {
  const Machine machine = ThisMachine();
  DaemonAnswer answer;
  answer.path = path;
  DaemonConnection connection;
  const Examined x{machine, answer, DeadlineAfter(NowNs(), uint64_t(timeout * 1e9))};
  answer.error = connection.Connect(path, int(timeout * 1e3));
  if (answer.answers()) answer.error = ReadStatus(&connection, &answer.daemon, &answer.groups);
  Report report;
  for (const Check& check : AllChecks())
    for (Finding& finding : check.run(x)) {
      ++report.counts[int(finding.level)];
      report.findings.emplace_back(check.name, std::move(finding));
    }
  return report;
}

void Print(const Report& report) {
  static constexpr Color kColors[] = {Color::kGood, Color::kNone, Color::kWarn, Color::kBad};
  const bool colored = ColorWanted();
  for (const auto& [check, finding] : report.findings) {
    const std::string level = absl::StrFormat("%-4s", kLevels[int(finding.level)]);
    std::printf("%s  %-13s  %s\n", Paint(level, kColors[int(finding.level)], colored).c_str(),
                check, Printable(finding.found).c_str());
    if (!finding.fix.empty()) std::printf("%21s-> %s\n", "", Printable(finding.fix).c_str());
  }
  std::printf("\n%u ok, %u note, %u warn, %u fail\n", report.counts[0], report.counts[1],
              report.counts[2], report.counts[3]);
}

void PrintJson(const Report& report) {
  Json findings = Json::array();
  for (const auto& [check, finding] : report.findings) {
    Json one = {{"check", check}, {"level", kLevels[int(finding.level)]}, {"found", finding.found}};
    if (!finding.fix.empty()) one["fix"] = finding.fix;
    findings.push_back(std::move(one));
  }
  Json counts;
  for (int level = 0; level < 4; ++level) counts[kLevels[level]] = report.counts[level];
  const Json all = {{"healthy", report.counts[int(Level::kFail)] == 0},
                    {"counts", std::move(counts)},
                    {"findings", std::move(findings)}};
  std::printf("%s\n", OneLine(all).c_str());
}

int Fail(int status, const std::string& text) {
  std::fprintf(stderr, "ultraepctl doctor: %s\n", text.c_str());
  return status;
}

int RunDoctor(const std::vector<std::string>& positional) {
  if (!positional.empty()) return Fail(kExitUsage, "unexpected argument '" + positional[0] + "'");
  const double timeout = absl::GetFlag(FLAGS_timeout);
  if (!(timeout >= 0.1 && timeout <= 600))
    return Fail(kExitFailed, absl::StrFormat("--timeout is %g, must be 0.1..600", timeout));
  const Report report = Examine(SocketPath(), timeout);
  if (absl::GetFlag(FLAGS_json))
    PrintJson(report);
  else if (!absl::GetFlag(FLAGS_quiet))
    Print(report);
  const int status = report.counts[int(Level::kFail)] ? kExitUnhealthy : kExitOk;
  std::fflush(stdout);
  if (SomethingHangs()) _exit(status);
  return status;
}

}  // namespace

const Command kDoctorCommand = {
    "doctor", "checks daemon and machine, and says what to do about each finding",
    "socket json quiet timeout",
    "usage: ultraepctl doctor [--json | --quiet] [--timeout SECONDS] [--socket PATH]\n\n"
    "Looks at the socket and who may use it, the daemon's answer and version, its metrics, whom "
    "it\n"
    "refused, its groups; at CPUs, quotas, NUMA, memory and its limits, huge pages, swap, open\n"
    "files, kernel, clocks, GPU and NCCL. Limits are the running daemon's, without one those of\n"
    "this shell. It changes nothing, and needs neither daemon nor GPU.\n\n"
    "ok    as it should be               warn  works, but worse than it could, or not for long\n"
    "note  good to know                  fail  balancing does not work for this user\n\n"
    "--json             one JSON object: healthy, counts, findings of check, level, found, fix\n"
    "--quiet            print nothing, only exit\n"
    "--timeout SECONDS  to wait for the daemon's answers, 0.1..600 (default 5)\n"
    "--socket PATH      else $ULTRAEP_SOCKET, else /run/ultraep/ultraepd.sock\n\n"
    "Exit status: 0 nothing failed, 1 bad input, 2 wrong usage, 4 a check failed.\n",
    RunDoctor};

}  // namespace ultraep

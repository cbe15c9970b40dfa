// The daemon: its socket, its answer, its metrics, whom it refused.
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/doctor/checks.h"
#include "daemon/cli/doctor/http_get.h"
#include "daemon/cli/terminal.h"
#include "daemon/status_json.h"
#include "protocol/version.h"

namespace ultraep {
namespace {

std::string UserName(uid_t uid) {
  const passwd* const user = getpwuid(uid);
  return user ? user->pw_name : std::to_string(uid);
}
std::string GroupName(gid_t gid) {
  const group* const found = getgrgid(gid);
  return found ? found->gr_name : std::to_string(gid);
}

// "alice (alice, video)": this process, for which permissions are checked.
std::string Self() {
  gid_t groups[256];
  const int count = getgroups(std::size(groups), groups);
  std::string names = GroupName(getegid());
  for (int i = 0; i < count; ++i)
    if (groups[i] != getegid()) names += ", " + GroupName(groups[i]);
  return UserName(geteuid()) + " (" + names + ")";
}

std::string Mode(mode_t mode) {
  static constexpr char kLetters[] = "rwxrwxrwx";
  std::string text(9, '-');
  for (int i = 0; i < 9; ++i)
    if (mode & (0400u >> i)) text[size_t(i)] = kLetters[i];
  return text;
}

std::string FixOf(const std::string& error) {
  if (absl::StrContains(error, "layout version"))
    return "install ultraepd, libultraep and ultraepctl of one release, and restart ultraepd";
  if (absl::StrContains(error, "Permission denied")) return "see socket";
  if (absl::StrContains(error, "has not answered"))
    return "is it stopped or starved? Look at its state (ps -o stat,wchan -p PID) and its log";
  return "start ultraepd, or name its socket by --socket or ULTRAEP_SOCKET";
}

}  // namespace

std::vector<Finding> CheckSocket(const Examined& x) {
  const std::string& path = x.answer.path;
  struct stat s;
  if (stat(path.c_str(), &s)) {
    const int why = errno;
    return {{Level::kFail, path + ": " + std::strerror(why),
             why == EACCES ? "chmod a+x its folders, or run this as " + UserName(0)
                           : "start ultraepd, or name its socket by --socket or ULTRAEP_SOCKET"}};
  }
  if (!S_ISSOCK(s.st_mode))
    return {{Level::kFail, path + " is not a socket", "remove it, or choose another --socket"}};
  const std::string found = absl::StrFormat("%s %s %s:%s", path, Mode(s.st_mode),
                                            UserName(s.st_uid), GroupName(s.st_gid));
  if (euidaccess(path.c_str(), R_OK | W_OK)) {
    const bool group_may = (s.st_mode & 0060u) == 0060u && s.st_gid != 0;
    return {{Level::kFail, found + ": not for " + Self(),
             group_may ? absl::StrFormat("usermod -aG %s %s, then log in again",
                                         GroupName(s.st_gid), UserName(geteuid()))
                       : "chgrp the socket to a group of the jobs' users and give it mode 0660"}};
  }
  if (s.st_mode & 0002u) return {{Level::kNote, found + ": for every user of the machine", ""}};
  return {{Level::kOk, found, ""}};
}

std::vector<Finding> CheckDaemon(const Examined& x) {
  if (!x.answer.answers()) return {{Level::kFail, x.answer.error, FixOf(x.answer.error)}};
  const StatusDaemon& d = x.answer.daemon;
  const std::string build = Printable(GetText(d.build));
  const std::string found =
      absl::StrFormat("ultraepd %s, layout version %d, pid %d, up %s", build, kLayoutVersion, d.pid,
                      ShortDuration(double(d.uptime_ns) / 1e9));
  if (build != kBuildVersion)
    return {{Level::kWarn, found + absl::StrFormat("; this is ultraepctl %s", kBuildVersion),
             "install one release, and restart ultraepd"}};
  return {{Level::kOk, found, ""}};
}

std::vector<Finding> CheckMetrics(const Examined& x) {
  if (!x.answer.answers()) return {{Level::kNote, "not known without the daemon", ""}};
  const auto port = uint16_t(x.answer.daemon.metrics_port);
  if (!port)
    return {
        {Level::kNote, "the daemon exports none", "start it with --metrics_listen 127.0.0.1:9478"}};
  const std::string url = absl::StrFormat("http://127.0.0.1:%d", port);
  const HttpAnswer metrics = HttpGet(port, "/metrics", x.deadline_ns);
  if (!metrics.error.empty())
    return {{Level::kWarn, url + "/metrics: " + metrics.error,
             "when --metrics_listen or a network namespace is another: look there; else restart "
             "ultraepd"}};
  if (metrics.status != 200 || !absl::StrContains(metrics.body, "ultraep_"))
    return {{Level::kWarn,
             absl::StrFormat("%s/metrics: status %d, not ultraep's metrics", url, metrics.status),
             "another program has the port here: choose another one for the daemon"}};
  const HttpAnswer ready = HttpGet(port, "/readyz", x.deadline_ns);
  if (ready.status != 200)
    return {{Level::kWarn,
             absl::StrFormat("%s/readyz: status %d %s", url, ready.status,
                             Printable(ready.body.substr(0, 100))),
             "look at the daemon's log"}};
  return {{Level::kOk, url + "/metrics", ""}};
}

std::vector<Finding> CheckRefusals(const Examined& x) {
  if (!x.answer.answers()) return {{Level::kNote, "not known without the daemon", ""}};
  const uint64_t(&refused)[kRefusalKinds] = x.answer.daemon.refused;
  std::string kinds;
  for (uint32_t kind = 0; kind < kRefusalKinds; ++kind)
    if (refused[kind])
      kinds +=
          absl::StrFormat("%s%d %s", kinds.empty() ? "" : ", ", refused[kind], RefusalName(kind));
  if (kinds.empty()) return {{Level::kOk, "none", ""}};
  const bool short_of =
      refused[uint32_t(RefusalKind::kLimit)] || refused[uint32_t(RefusalKind::kSystem)];
  return {
      {short_of ? Level::kWarn : Level::kNote, kinds, "`ultraepctl events --no-follow` says why"}};
}

}  // namespace ultraep

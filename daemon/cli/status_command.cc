// `ultraepctl status`: asks the running daemon through the attach socket and prints what it says.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "daemon/cli/command.h"
#include "daemon/cli/daemon_connection.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/status_table.h"
#include "daemon/cli/terminal.h"
#include "daemon/status_json.h"

namespace ultraep {
namespace {

int RunStatus(const std::vector<std::string>& positional) {
  const bool quiet = absl::GetFlag(FLAGS_quiet);
  if (!positional.empty()) {
    std::fprintf(stderr, "ultraepctl status: unexpected argument '%s'\n", positional[0].c_str());
    return kExitUsage;
  }
  const std::string path = SocketPath();
  DaemonConnection connection;
  StatusDaemon daemon;
  std::vector<StatusGroup> groups;
  std::string wrong = connection.Connect(path);
  if (wrong.empty()) wrong = ReadStatus(&connection, &daemon, &groups);
  if (!wrong.empty()) {
    if (!quiet) std::fprintf(stderr, "ultraepctl status: %s: %s\n", path.c_str(), wrong.c_str());
    return kExitFailed;
  }
  if (quiet) return AllPlanned(groups) ? kExitOk : kExitUnhealthy;
  if (absl::GetFlag(FLAGS_json)) {
    Json out = StatusJson(daemon, groups);
    out["daemon"]["socket"] = path;
    std::printf("%s\n", OneLine(out).c_str());
    return kExitOk;
  }
  for (const std::string& line : StatusTable(path, daemon, groups, ColorWanted()))
    std::printf("%s\n", line.c_str());
  return kExitOk;
}

}  // namespace

const Command kStatusCommand = {
    "status", "what the running daemon serves: groups, members, imbalance, fallbacks",
    "socket json quiet",
    "usage: ultraepctl status [--json | --quiet] [--socket PATH]\n\n"
    "Shows the groups of your user (root and the daemon's user see all): ranks that are ready, "
    "gate,\n"
    "steps planned and fallen back, mean imbalance before and after, replicas per step; what was\n"
    "gained and what it took; latencies; what weights and gradients moved (means over ranks and\n"
    "operations); losses. All since the group exists; `ultraepctl top` shows it as it goes on.\n\n"
    "--json         one line of JSON instead of a table\n"
    "--quiet        print nothing: is every group planned, with all ranks ready?\n"
    "--socket PATH  else $ULTRAEP_SOCKET, else /run/ultraep/ultraepd.sock\n\n"
    "Exit status: 0 answered, 1 no daemon or no answer, 2 wrong usage, 4 with --quiet: a group is\n"
    "not planned.\n",
    RunStatus};

}  // namespace ultraep

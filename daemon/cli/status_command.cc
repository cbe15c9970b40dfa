// `ultraepctl status`: asks the running daemon through the attach socket and prints what it says.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "daemon/cli/command.h"
#include "daemon/cli/daemon_connection.h"
#include "daemon/cli/flags.h"
#include "daemon/status_json.h"

namespace ultraep {
namespace {

double GbPerSecond(uint64_t bytes, uint64_t ns) { return ns ? double(bytes) / double(ns) : 0.0; }
double MeanUs(uint64_t ns, uint64_t count) {
  return count ? double(ns) / double(count) / 1e3 : 0.0;
}

void PrintTable(const std::string& path, const StatusDaemon& daemon,
                const std::vector<StatusGroup>& all) {
  std::printf("ultraepd %s  pid %ld  socket %s  up %.0f s  connections %u  refused %lu\n",
              GetText(daemon.build).c_str(), long(daemon.pid), path.c_str(),
              double(daemon.uptime_ns) / 1e9, daemon.connections,
              static_cast<unsigned long>(Refusals(daemon)));
  if (all.empty()) {
    std::printf("no groups\n");
    return;
  }
  std::printf("%-20s %5s %7s %5s %7s %9s %9s %8s %7s %7s %10s %9s\n", "group", "ranks", "experts",
              "slots", "gate", "planned", "fallback", "replicas", "before", "after", "solve p50",
              "memory");
  for (const StatusGroup& g : all) {
    const GroupCounters& c = g.counters;
    std::printf("%-20s %5u %7u %5u %7s %9lu %9lu %8.1f %7.3f %7.3f %7.1f us %5.0f MiB\n",
                GetText(g.config.name).c_str(), g.config.ranks, g.config.experts, g.config.slots,
                GateName(g.gate_state), static_cast<unsigned long>(c.steps_planned),
                static_cast<unsigned long>(c.steps_fallback()),
                c.steps_planned ? double(c.replicas) / double(c.steps_planned) : 0.0,
                MeanImbalance(c, c.peak_before_sum, g.config.ranks),
                MeanImbalance(c, c.peak_sum, g.config.ranks), g.planning.solve.Quantile(0.5) / 1e3,
                double(g.memory_bytes) / (1 << 20));
    const TransferTotals& t = g.ranks.transfers;
    if (t.sends)
      std::printf(
          "  weights   %.2f GB in %lu transfers, %.1f GB/s per thread, slots complete after "
          "%.0f us\n",
          double(t.sent_bytes) / 1e9, static_cast<unsigned long>(t.transfers),
          GbPerSecond(t.sent_bytes, t.copy_ns), MeanUs(t.arrive_ns, t.arrivals));
    if (t.reductions)
      std::printf(
          "  gradients %.2f GB of %lu replicas, %.1f GB/s per thread, added after %.0f us\n",
          double(t.reduced_bytes) / 1e9, static_cast<unsigned long>(t.replicas),
          GbPerSecond(t.reduced_bytes, t.add_ns), MeanUs(t.reduce_ns, t.reductions));
    for (uint32_t r = 0; r < g.config.ranks && r < kMaxRanks; ++r)
      if (std::string(MemberName(g.members[r])) != "ready")
        std::printf("  rank %u is %s\n", r, MemberName(g.members[r]));
  }
}

int RunStatus(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    std::fprintf(stderr, "ultraepctl status: unexpected argument '%s'\n", positional[0].c_str());
    return 2;
  }
  const std::string path = SocketPath();
  DaemonConnection connection;
  StatusDaemon daemon;
  std::vector<StatusGroup> groups;
  std::string wrong = connection.Connect(path);
  if (wrong.empty()) wrong = ReadStatus(&connection, &daemon, &groups);
  if (!wrong.empty()) {
    std::fprintf(stderr, "ultraepctl status: %s: %s\n", path.c_str(), wrong.c_str());
    return kExitFailed;
  }
  if (absl::GetFlag(FLAGS_json)) {
    Json out = StatusJson(daemon, groups);
    out["daemon"]["socket"] = path;
    std::printf("%s\n", OneLine(out).c_str());
  } else {
    PrintTable(path, daemon, groups);
  }
  return kExitOk;
}

}  // namespace

const Command kStatusCommand = {
    "status", "what the running daemon serves: groups, members, imbalance, fallbacks",
    "socket json",
    "usage: ultraepctl status [--socket PATH] [--json]\n\n"
    "Shows the groups of your user (root and the daemon's user see all): members, gate, steps\n"
    "planned and fallen back, mean imbalance before and after, replicas per step, solve time;\n"
    "what weights and gradients moved (means over ranks and operations).\n"
    "The socket is --socket, else $ULTRAEP_SOCKET, else /run/ultraep/ultraepd.sock.\n"
    "Exit status: 0 answered, 1 no daemon or no answer, 2 wrong usage.\n",
    RunStatus};

}  // namespace ultraep

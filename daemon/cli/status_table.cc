#include "daemon/cli/status_table.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "daemon/cli/group_text.h"
#include "daemon/cli/terminal.h"
#include "daemon/status_json.h"
#include "protocol/boards.h"
#include "protocol/verdict_board.h"

namespace ultraep {
namespace {

using Lines = std::vector<std::string>;

// "3 gone, 1 fenced": those of the counts that are not zero.
std::string Counts(std::initializer_list<std::pair<uint64_t, const char*>> counts) {
  Lines parts;
  for (const auto& [count, name] : counts)
    if (count) parts.push_back(absl::StrFormat("%d %s", count, name));
  return absl::StrJoin(parts, ", ");
}

std::string Quantiles(const char* name, const LatencyHistogram& latency) {
  return absl::StrFormat("%s %s / %s", name, ShortUs(latency.Quantile(0.5) / 1e3),
                         ShortUs(latency.Quantile(0.99) / 1e3));
}

Lines HeadLines(const std::string& socket, const StatusDaemon& d) {
  Lines lines = {absl::StrFormat("ultraepd %s  pid %d  up %s  socket %s",
                                 Printable(GetText(d.build)), d.pid,
                                 ShortDuration(double(d.uptime_ns) / 1e9), socket)};
  if (d.metrics_port) lines[0] += absl::StrFormat("  metrics http://127.0.0.1:%d", d.metrics_port);
  std::string second = absl::StrFormat("connections %d of %d  memory %s", d.connections,
                                       d.max_connections, ShortBytes(d.memory_bytes));
  if (d.memory_limit_bytes) second += " of " + ShortBytes(d.memory_limit_bytes);
  if (d.cuda == CudaUse::kOpen)
    second += absl::StrFormat("  GPUs %d, driver %s", d.cuda_devices, CudaVersion(d.cuda_driver));
  if (Refusals(d)) {
    Lines kinds;
    for (uint32_t kind = 0; kind < kRefusalKinds; ++kind)
      if (d.refused[kind])
        kinds.push_back(absl::StrFormat("%d %s", d.refused[kind], RefusalName(kind)));
    second += "  refused " + absl::StrJoin(kinds, ", ");
  }
  if (d.traces) second += absl::StrFormat("  recordings %d", d.traces);
  if (d.trace_dropped) second += absl::StrFormat(", %d steps not recorded", d.trace_dropped);
  lines.push_back(second);
  return lines;
}

std::string TitleLine(size_t width) {
  return absl::StrFormat("%-*s %7s %7s %7s %5s %9s %8s %7s %7s %8s %10s", int(width), "GROUP",
                         "RANKS", "GATE", "EXPERTS", "SLOTS", "PLANNED", "FALLBACK", "BEFORE",
                         "AFTER", "REPLICAS", "MEMORY");
}

std::string GroupLine(const StatusGroup& g, size_t width) {
  const GroupCounters& c = g.counters;
  uint32_t ready = 0;
  for (uint32_t r = 0; r < g.config.ranks && r < kMaxRanks; ++r)
    ready += MemberState(g.members[r]) == MemberState::kReady;
  return absl::StrFormat("%-*s %7s %7s %7d %5d %9d %8d %7.3f %7.3f %8.1f %10s", int(width),
                         GetText(g.config.name), absl::StrFormat("%d/%d", ready, g.config.ranks),
                         GateName(g.gate_state), g.config.experts, g.config.slots, c.steps_planned,
                         c.steps_fallback(), MeanImbalance(c, c.peak_before_sum, g.config.ranks),
                         MeanImbalance(c, c.peak_sum, g.config.ranks),
                         c.steps_planned ? double(c.replicas) / double(c.steps_planned) : 0.0,
                         ShortBytes(g.memory_bytes));
}

// What balancing took off the fullest ranks.
std::string Gain(const StatusGroup& g, uint64_t cost_token_ps) {
  const GroupCounters& c = g.counters;
  const double avoided = double(TokensAvoided(c));
  std::string line = absl::StrFormat("the fullest ranks had %s tokens less, %.1f %% of theirs",
                                     ShortCount(avoided),
                                     100 * avoided / std::max(double(c.peak_before_sum), 1.0));
  if (cost_token_ps)
    line += ": " + ShortUs(avoided * double(cost_token_ps) / 1e6) + " by --cost_token_ns";
  return line;
}

// What it took. Streams and reductions may be hidden behind other work of the rank.
std::string Price(const StatusGroup& g) {
  const double ranks = std::max(g.config.ranks, 1u);
  std::string line = absl::StrFormat("planning %s, per rank streaming %s",
                                     ShortUs(double(g.planning.plan.sum_ns) / 1e3),
                                     ShortUs(double(g.ranks.stream.sum_ns) / ranks / 1e3));
  if (g.ranks.reduce.count())
    line += ", reducing " + ShortUs(double(g.ranks.reduce.sum_ns) / ranks / 1e3);
  return line;
}

// In two lines: how a step gets its verdict, and what follows from it.
void AddLatencies(const StatusGroup& g, Lines* lines) {
  lines->push_back("  p50 / p99  " + Quantiles("solve", g.planning.solve) + ", " +
                   Quantiles("plan", g.planning.plan) + ", " +
                   Quantiles("submit to verdict", g.ranks.verdict));
  Lines times;
  if (g.ranks.route.count()) times.push_back(Quantiles("route", g.ranks.route));
  if (g.ranks.stream.count()) times.push_back(Quantiles("stream", g.ranks.stream));
  if (g.ranks.reduce.count()) times.push_back(Quantiles("reduce", g.ranks.reduce));
  if (!times.empty()) lines->push_back("             " + absl::StrJoin(times, ", "));
}

Lines GroupDetails(const StatusGroup& g, uint64_t cost_token_ps) {
  const GroupCounters& c = g.counters;
  const TransferTotals& t = g.ranks.transfers;
  Lines lines;
  const auto add = [&](const char* name, const std::string& text) {
    lines.push_back(absl::StrFormat("  %-10s %s", name, text));
  };
  if (g.config.on_device())
    add("slots", absl::StrFormat("%s: %s of each rank's %s", MemoryName(g.config.memory),
                                 ShortBytes(g.device_bytes), Printable(GetText(g.device))));
  if (c.steps_planned) {
    add("gain", Gain(g, cost_token_ps));
    add("price", Price(g));
    add("optimum",
        absl::StrFormat("%.1f %% above what any plan with these slots could reach (%.3f)",
                        100 * MeanGap(c), MeanImbalance(c, c.lower_bound_sum, g.config.ranks)));
    AddLatencies(g, &lines);
  }
  if (t.sends)
    add("weights",
        absl::StrFormat("%.2f GB in %d transfers, %.1f GB/s per thread, slots complete "
                        "after %.0f us",
                        double(t.sent_bytes) / 1e9, t.transfers,
                        GbPerSecond(t.sent_bytes, t.copy_ns), MeanUs(t.arrive_ns, t.arrivals)));
  if (t.reductions)
    add("gradients",
        absl::StrFormat("%.2f GB of %d replicas, %.1f GB/s per thread, added after %.0f us",
                        double(t.reduced_bytes) / 1e9, t.replicas,
                        GbPerSecond(t.reduced_bytes, t.add_ns), MeanUs(t.reduce_ns, t.reductions)));
  if (c.steps_fallback())
    add("fallbacks", Counts({{c.fallback_deadline, "deadline"},
                             {c.fallback_order, "order mismatch"},
                             {c.fallback_bad_row, "bad row"}}));
  if (g.ranks.declined || g.ranks.failed)
    add("ranks", Counts({{g.ranks.declined, "steps declined"}, {g.ranks.failed, "steps failed"}}));
  if (const std::string losses = Counts(
          {{c.members_left, "left"}, {c.members_gone, "gone"}, {c.members_fenced, "fenced"}});
      !losses.empty())
    add("losses", absl::StrFormat("%s; generations made: %d", losses, g.generations));
  return lines;
}

}  // namespace

bool AllPlanned(const std::vector<StatusGroup>& groups) {
  return std::all_of(groups.begin(), groups.end(), [](const StatusGroup& g) {
    return GateState(g.gate_state) == GateState::kOpen && NotReadyText(g).empty();
  });
}

std::vector<std::string> StatusTable(const std::string& socket, const StatusDaemon& daemon,
                                     const std::vector<StatusGroup>& groups, bool colored) {
  Lines lines = HeadLines(socket, daemon);
  lines.push_back("");
  if (groups.empty()) {
    lines.push_back("no groups");
    return lines;
  }
  size_t width = 5;
  for (const StatusGroup& g : groups) width = std::max(width, GetText(g.config.name).size());
  lines.push_back(Paint(TitleLine(width), Color::kBold, colored));
  for (const StatusGroup& g : groups) {
    lines.push_back(GroupLine(g, width));
    if (const std::string missing = NotReadyText(g); !missing.empty())
      lines.push_back(Paint("  " + missing, Color::kBad, colored));
    for (std::string& line : GroupDetails(g, daemon.cost_token_ps))
      lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace ultraep

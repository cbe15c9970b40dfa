#include "daemon/status_json.h"

#include <iterator>

#include "absl/strings/str_format.h"
#include "protocol/boards.h"

namespace ultraep {
namespace {

template <size_t kNames>
const char* NameOf(const char* const (&names)[kNames], uint64_t value) {
  return value < kNames ? names[value] : "unknown";
}

constexpr const char* kRefusals[] = {"limit",   "config", "disagree", "state",
                                     "message", "system", "operator"};
static_assert(std::size(kRefusals) == kRefusalKinds);

// Seconds are summed over threads; means are per rank and operation that it had a part in.
Json TransfersJson(const TransferTotals& t) {
  return {{"weights",
           {{"sends", t.sends},
            {"arrivals", t.arrivals},
            {"transfers", t.transfers},
            {"bytes", t.sent_bytes},
            {"relayed_bytes", t.relayed_bytes},
            {"gb_s_per_thread", GbPerSecond(t.sent_bytes, t.copy_ns)},
            {"copy_seconds", double(t.copy_ns) / 1e9},
            {"wait_seconds", double(t.send_wait_ns) / 1e9},
            {"mean_send_us", MeanUs(t.send_ns, t.sends)},
            {"mean_arrive_us", MeanUs(t.arrive_ns, t.arrivals)}}},
          {"gradients",
           {{"reductions", t.reductions},
            {"replicas", t.replicas},
            {"bytes", t.reduced_bytes},
            {"gb_s_per_thread", GbPerSecond(t.reduced_bytes, t.add_ns)},
            {"add_seconds", double(t.add_ns) / 1e9},
            {"wait_seconds", double(t.reduce_wait_ns) / 1e9},
            {"mean_reduce_us", MeanUs(t.reduce_ns, t.reductions)},
            {"prepare_seconds", double(t.prepare_ns) / 1e9}}}};
}

Json LastStepJson(const GroupCounters& c) {
  return {{"tokens", c.last_tokens},     {"peak_before", c.last_peak_before},
          {"peak", c.last_peak},         {"lower_bound", c.last_lower_bound},
          {"replicas", c.last_replicas}, {"unix_seconds", double(c.last_planned_ns) / 1e9}};
}

double LastImbalance(const StatusGroup& g, uint64_t peak) {
  return Imbalance(peak, g.counters.last_tokens, g.config.ranks);
}

Json DaemonJson(const StatusDaemon& d) {
  Json kinds;
  for (uint32_t kind = 0; kind < kRefusalKinds; ++kind) kinds[kRefusals[kind]] = d.refused[kind];
  return {{"version", GetText(d.build)},
          {"pid", d.pid},
          {"uptime_seconds", double(d.uptime_ns) / 1e9},
          {"connections", d.connections},
          {"max_connections", d.max_connections},
          {"refused", Refusals(d)},
          {"refused_by_kind", kinds},
          {"spin_us", d.spin_us},
          {"lease_seconds", double(d.lease_ns) / 1e9},
          {"memory_bytes", d.memory_bytes},
          {"memory_limit_bytes", d.memory_limit_bytes},
          {"cuda",
           {{"state", CudaName(d.cuda)},
            {"devices", d.cuda_devices},
            {"driver", CudaVersion(d.cuda_driver)},
            {"found", GetText(d.cuda_found)}}},
          {"metrics_port", d.metrics_port},
          {"traces", d.traces},
          {"trace_dropped", d.trace_dropped},
          {"events_dropped", d.events_dropped},
          {"cost_token_ns", double(d.cost_token_ps) / 1e3}};
}

}  // namespace

const char* MemoryName(MemoryKind memory) {
  static constexpr const char* kNames[] = {"host", "cuda, ranks own", "cuda, daemon owns"};
  return NameOf(kNames, uint64_t(memory));
}

const char* CudaName(CudaUse use) {
  static constexpr const char* kNames[] = {"off", "opening", "missing", "open"};
  return NameOf(kNames, uint64_t(use));
}

std::string CudaVersion(uint32_t driver) {
  return driver ? absl::StrFormat("%d.%d", driver / 1000, driver % 1000 / 10) : "none";
}

const char* GateName(uint32_t state) {
  static constexpr const char* kNames[] = {"closed", "open", "ended", "failed", "dead"};
  return NameOf(kNames, state);
}

const char* MemberName(uint8_t state) {
  static constexpr const char* kNames[] = {"absent", "joined", "ready", "left", "gone", "fenced"};
  return NameOf(kNames, state);
}

const char* RefusalName(uint32_t kind) { return NameOf(kRefusals, kind); }

double GbPerSecond(uint64_t bytes, uint64_t ns) { return ns ? double(bytes) / double(ns) : 0.0; }
double MeanUs(uint64_t ns, uint64_t count) {
  return count ? double(ns) / double(count) / 1e3 : 0.0;
}

double MeanImbalance(const GroupCounters& c, uint64_t peak_sum, uint32_t ranks) {
  return Imbalance(peak_sum, c.tokens_sum, ranks);
}

double MeanGap(const GroupCounters& c) {
  return c.lower_bound_sum ? double(c.peak_sum) / double(c.lower_bound_sum) - 1 : 0.0;
}

uint64_t TokensAvoided(const GroupCounters& c) {
  // The two are read one after the other, while steps are counted.
  return c.peak_before_sum > c.peak_sum ? c.peak_before_sum - c.peak_sum : 0;
}

uint64_t Refusals(const StatusDaemon& daemon) {
  uint64_t sum = 0;
  for (const uint64_t refused : daemon.refused) sum += refused;
  return sum;
}

Json LatencyJson(const LatencyHistogram& l) {
  return {{"count", l.count()},
          {"mean_us", l.mean_ns() / 1e3},
          {"p50_us", l.Quantile(0.5) / 1e3},
          {"p99_us", l.Quantile(0.99) / 1e3}};
}

Json GroupJson(const StatusGroup& g) {
  const GroupCounters& c = g.counters;
  const LatencyHistogram& solve = g.planning.solve;
  Json members = Json::array();
  for (uint32_t r = 0; r < g.config.ranks && r < kMaxRanks; ++r)
    members.push_back(MemberName(g.members[r]));
  return {{"name", GetText(g.config.name)},
          {"uid", g.uid},
          {"ranks", g.config.ranks},
          {"experts", g.config.experts},
          {"layers", g.config.layers},
          {"slots", g.config.slots},
          {"slot_sets", g.config.slot_sets},
          {"window", g.config.window},
          {"training", g.config.training == 1},
          {"gate", GateName(g.gate_state)},
          {"first_planned_step", g.gate_value},
          {"generation", absl::StrFormat("%016x", g.generation)},
          {"generations", g.generations},
          {"members", members},
          {"losses",
           {{"left", c.members_left}, {"gone", c.members_gone}, {"fenced", c.members_fenced}}},
          {"heartbeat_age_seconds", double(g.heartbeat_age_ns) / 1e9},
          {"memory_bytes", g.memory_bytes},
          {"slots_in", MemoryName(g.config.memory)},
          {"device", GetText(g.device)},
          {"device_bytes_per_rank", g.device_bytes},
          {"fallback_tokens_min", g.fallback_tokens_min},
          {"next_step", g.next_sequence},
          {"steps_planned", c.steps_planned},
          {"steps_fallback", c.steps_fallback()},
          {"fallback_deadline", c.fallback_deadline},
          {"order_mismatch", c.fallback_order},
          {"bad_rows", c.fallback_bad_row},
          {"rank_steps",
           {{"planned", g.ranks.planned},
            {"fallback", g.ranks.fallback},
            {"declined", g.ranks.declined},
            {"failed", g.ranks.failed}}},
          {"replicas", c.replicas},
          {"imbalance_before", MeanImbalance(c, c.peak_before_sum, g.config.ranks)},
          {"imbalance_after", MeanImbalance(c, c.peak_sum, g.config.ranks)},
          {"imbalance_floor", MeanImbalance(c, c.lower_bound_sum, g.config.ranks)},
          {"gap", MeanGap(c)},
          {"tokens", c.tokens_sum},
          {"tokens_avoided", TokensAvoided(c)},
          {"last_imbalance_before", LastImbalance(g, c.last_peak_before)},
          {"last_imbalance_after", LastImbalance(g, c.last_peak)},
          {"last", LastStepJson(c)},
          {"solve_us", {{"p50", solve.Quantile(0.5) / 1e3}, {"p99", solve.Quantile(0.99) / 1e3}}},
          {"latencies",
           {{"collect", LatencyJson(g.planning.collect)},
            {"solve", LatencyJson(solve)},
            {"plan", LatencyJson(g.planning.plan)},
            {"verdict", LatencyJson(g.ranks.verdict)},
            {"route", LatencyJson(g.ranks.route)},
            {"stream", LatencyJson(g.ranks.stream)},
            {"reduce", LatencyJson(g.ranks.reduce)}}},
          {"transfers", TransfersJson(g.ranks.transfers)}};
}

Json StatusJson(const StatusDaemon& daemon, const std::vector<StatusGroup>& groups) {
  Json all = Json::array();
  for (const StatusGroup& group : groups) all.push_back(GroupJson(group));
  return {{"daemon", DaemonJson(daemon)}, {"groups", all}};
}

std::string OneLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace ultraep

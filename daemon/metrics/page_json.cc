#include "daemon/metrics/page_json.h"

#include <algorithm>
#include <vector>

#include "daemon/event_json.h"
#include "daemon/status_json.h"
#include "protocol/transport/waiting.h"

namespace ultraep::metrics {
namespace {

constexpr size_t kVerdictsPerGroup = 16;

Json VerdictJson(const Event& event) {
  Json json = {{"group", GetText(event.group)},
               {"unix_seconds", double(event.time_ns) / 1e9},
               {"verdict", event.kind == uint16_t(EventKind::kPlan) ? "plan" : "fallback"},
               {"step", event.sequence},
               {"layer", nullptr},  // null, as microbatch: no row was seen
               {"microbatch", nullptr}};
  if (LayerKnown(event)) {
    json["layer"] = event.layer;
    json["microbatch"] = event.microbatch;
  }
  if (event.kind == uint16_t(EventKind::kFallback)) {
    json["reason"] = ReasonName(event.reason);
    return json;
  }
  json["peak_before"] = event.peak_before;
  json["peak"] = event.peak;
  json["tokens"] = event.tokens;
  json["replicas"] = event.replicas;
  json["solve_us"] = double(event.latency_ns) / 1e3;
  return json;
}

Json VerdictsJson(std::vector<Event> verdicts) {
  std::stable_sort(verdicts.begin(), verdicts.end(),
                   [](const Event& a, const Event& b) { return a.time_ns > b.time_ns; });
  Json json = Json::array();
  for (const Event& verdict : verdicts) json.push_back(VerdictJson(verdict));
  return json;
}

Json HistogramsJson(const StatusGroup& group) {
  const auto histogram = [](const LatencyHistogram& h) {
    return Json{{"sum_ns", h.sum_ns}, {"buckets", h.buckets}};
  };
  return {
      {"collect", histogram(group.planning.collect)}, {"solve", histogram(group.planning.solve)},
      {"plan", histogram(group.planning.plan)},       {"verdict", histogram(group.ranks.verdict)},
      {"route", histogram(group.ranks.route)},        {"stream", histogram(group.ranks.stream)},
      {"reduce", histogram(group.ranks.reduce)}};
}

}  // namespace

std::string PageJson(const NodeView& view, const std::string& health,
                     const std::string& readiness) {
  const NodeSnapshot snapshot = view.Read();
  Json json = StatusJson(snapshot.daemon, snapshot.groups);
  for (size_t i = 0; i < snapshot.groups.size(); ++i) {
    const GroupCounters& c = snapshot.groups[i].counters;
    json["groups"][i]["sums"] = {{"peak_before", c.peak_before_sum},
                                 {"peak", c.peak_sum},
                                 {"lower_bound", c.lower_bound_sum}};
    json["groups"][i]["histograms"] = HistogramsJson(snapshot.groups[i]);
  }
  json["time"] = double(WallNs()) / 1e9;
  json["health"] = health;
  json["readiness"] = readiness;
  json["latency_bounds_ns"] = kLatencyBoundsNs;
  json["recent"] = VerdictsJson(view.LastVerdicts(false, kVerdictsPerGroup));
  json["fallbacks"] = VerdictsJson(view.LastVerdicts(true, kVerdictsPerGroup));
  return OneLine(json);
}

}  // namespace ultraep::metrics

#include "daemon/metrics/page_json.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "absl/time/clock.h"
#include "daemon/status_json.h"

namespace ultraep::metrics {
namespace {

constexpr size_t kVerdictsPerGroup = 16;

const char* ReasonName(uint16_t reason) {
  static constexpr const char* kNames[] = {"none", "deadline", "order_mismatch", "bad_row"};
  return reason < std::size(kNames) ? kNames[reason] : "unknown";
}

Json VerdictJson(const Event& event) {
  Json json = {{"group", GetText(event.group)},
               {"unix_seconds", double(event.time_ns) / 1e9},
               {"verdict", event.kind == uint16_t(EventKind::kPlan) ? "plan" : "fallback"},
               {"step", event.sequence},
               {"layer", event.layer},
               {"microbatch", event.microbatch}};
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

Json BucketsJson(const StatusGroup& group) {
  return {{"collect", group.planning.collect.buckets}, {"solve", group.planning.solve.buckets},
          {"plan", group.planning.plan.buckets},       {"verdict", group.ranks.verdict.buckets},
          {"route", group.ranks.route.buckets},        {"stream", group.ranks.stream.buckets},
          {"reduce", group.ranks.reduce.buckets}};
}

}  // namespace

std::string PageJson(const NodeView& view) {
  const NodeSnapshot snapshot = view.Read();
  Json json = StatusJson(snapshot.daemon, snapshot.groups);
  for (size_t i = 0; i < snapshot.groups.size(); ++i)
    json["groups"][i]["buckets"] = BucketsJson(snapshot.groups[i]);
  json["time"] = absl::ToUnixNanos(absl::Now()) / 1e9;
  json["latency_bounds_ns"] = kLatencyBoundsNs;
  json["recent"] = VerdictsJson(view.LastVerdicts(false, kVerdictsPerGroup));
  json["fallbacks"] = VerdictsJson(view.LastVerdicts(true, kVerdictsPerGroup));
  return OneLine(json);
}

}  // namespace ultraep::metrics

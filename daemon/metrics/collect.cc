#include "daemon/metrics/collect.h"

#include <string>

#include "daemon/metrics/layer_detail.h"
#include "daemon/metrics/process_metrics.h"
#include "daemon/status_json.h"
#include "protocol/version.h"

namespace ultraep::metrics {
namespace {

void CollectDaemon(const StatusDaemon& daemon, Families* families) {
  families->Add(kConnections, daemon.connections);
  families->Add(kConnectionsLimit, daemon.max_connections);
  static constexpr const char* kKinds[] = {"limit",   "config", "disagree", "state",
                                           "message", "system", "operator"};
  static_assert(std::size(kKinds) == kRefusalKinds);
  for (uint32_t kind = 0; kind < kRefusalKinds; ++kind)
    families->Add(kRefusalsTotal, {kKinds[kind]}, double(daemon.refused[kind]));
  families->Add(kMemoryBytes, double(daemon.memory_bytes));
  families->Add(kMemoryLimitBytes, double(daemon.memory_limit_bytes));
  families->Add(kLeaseSeconds, double(daemon.lease_ns) / 1e9);
  families->Add(kDroppedTotal, {"trace"}, double(daemon.trace_dropped));
  families->Add(kDroppedTotal, {"events"}, double(daemon.events_dropped));
  families->Add(kTraces, daemon.traces);
  families->Add(kTokenCostSeconds, double(daemon.cost_token_ps) / 1e12);
  families->Add(kGpuAvailable, daemon.cuda == CudaUse::kOpen);
  families->Add(kBuildInfo,
                {GetText(daemon.build), std::to_string(kLayoutVersion),
                 CudaVersion(daemon.cuda_driver)},
                1);
}

// Over the daemon's life, so that they never go down.
void CollectLatencies(const NodeSnapshot& snapshot, Families* families) {
  StatusGroup sum = snapshot.closed_sum;
  for (const StatusGroup& group : snapshot.groups) {
    sum.planning.collect.Add(group.planning.collect);
    sum.planning.solve.Add(group.planning.solve);
    sum.planning.plan.Add(group.planning.plan);
    sum.ranks.Add(group.ranks);
  }
  families->AddHistogram(kCollectSeconds, sum.planning.collect);
  families->AddHistogram(kSolveSeconds, sum.planning.solve);
  families->AddHistogram(kPlanSeconds, sum.planning.plan);
  families->AddHistogram(kVerdictSeconds, sum.ranks.verdict);
  families->AddHistogram(kRouteSeconds, sum.ranks.route);
  families->AddHistogram(kStreamSeconds, sum.ranks.stream);
  families->AddHistogram(kReduceSeconds, sum.ranks.reduce);
}

}  // namespace

std::vector<prometheus::MetricFamily> Collector::Collect(const NodeSnapshot& snapshot) {
  Families families;
  groups_.Collect(snapshot, &families);
  CollectLayers(snapshot, groups_.labels(), &families);
  CollectLatencies(snapshot, &families);
  families.Add(kGroups, double(snapshot.groups.size()));
  CollectDaemon(snapshot.daemon, &families);
  families.Add(kScrapesTotal, double(++scrapes_));
  CollectProcess(&families);
  return families.Take();
}

}  // namespace ultraep::metrics

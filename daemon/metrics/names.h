// Every metric that ultraepd exports: name, type, labels, help. collect.cc fills them, dashboards
// and rules use them, dashboards/metrics.md is printed from here (`ultraepd --metrics_table`).
//
// Imbalance here is max / mean over the ranks of a group, 1.0 is perfect (vLLM and SGLang publish
// the reciprocal and call it balancedness).
#pragma once

#include <cstdint>

namespace ultraep::metrics {

enum class Type { kCounter, kGauge, kHistogram };

struct Metric {
  const char* name;
  Type type;
  const char* labels;  // comma separated, with the values where they are few: stage=before|after
  const char* help;
};

// --- one series per group; label `group`: its name, "other" beyond the first seven ---------------
inline constexpr Metric kImbalanceRatio = {
    "ultraep_imbalance_ratio", Type::kGauge, "group,stage=before|after",
    "Tokens of the fullest rank / mean over the ranks (max / mean), in the last planned step. "
    "before: without replicas, after: under the plan. 1 is perfect. Over a window: "
    "rate(ultraep_rank_tokens_max_total[5m]) / ignoring(stage) group_left "
    "rate(ultraep_rank_tokens_mean_total[5m])."};
inline constexpr Metric kRankTokensMax = {"ultraep_rank_tokens_max", Type::kGauge,
                                          "group,stage=before|after",
                                          "Tokens of the fullest rank in the last planned step."};
inline constexpr Metric kRankTokensMean = {
    "ultraep_rank_tokens_mean", Type::kGauge, "group",
    "Mean over the ranks of tokens received in the last planned step."};
inline constexpr Metric kRankTokensMaxTotal = {
    "ultraep_rank_tokens_max_total", Type::kCounter, "group,stage=before|after",
    "Tokens of the fullest rank, summed over planned steps."};
inline constexpr Metric kRankTokensMeanTotal = {
    "ultraep_rank_tokens_mean_total", Type::kCounter, "group",
    "Mean over the ranks of tokens received, summed over planned steps."};
inline constexpr Metric kRankTokensBoundTotal = {
    "ultraep_rank_tokens_bound_total", Type::kCounter, "group",
    "Proven lower bound of the fullest rank's tokens under any plan, summed over planned steps."};
inline constexpr Metric kTokensAvoidedTotal = {
    "ultraep_tokens_avoided_total", Type::kCounter, "group",
    "Token-work taken off the critical path: peak before minus peak after, summed over planned "
    "steps. Times what a token costs it is the time won."};
inline constexpr Metric kOptimalityGapRatio = {
    "ultraep_optimality_gap_ratio", Type::kGauge, "group",
    "Peak of the last plan / proven lower bound - 1. 0 is optimal."};
inline constexpr Metric kStepsTotal = {
    "ultraep_steps_total", Type::kCounter,
    "group,verdict=plan|fallback,reason=none|deadline|order_mismatch|bad_row",
    "Steps that the daemon saw decided, by verdict, and fallbacks by reason."};
inline constexpr Metric kRankStepsTotal = {
    "ultraep_rank_steps_total", Type::kCounter, "group,verdict=plan|fallback|declined|failed",
    "Steps as the ranks resolved them, one per rank and step. Declined: not submitted, since no "
    "daemon or a member was missing; counted once the group is open again."};
inline constexpr Metric kReplicas = {"ultraep_replicas", Type::kGauge, "group",
                                     "Replicas, and so redundant slots in use, in the last plan."};
inline constexpr Metric kReplicasTotal = {"ultraep_replicas_total", Type::kCounter, "group",
                                          "Replicas, summed over planned steps."};
inline constexpr Metric kSlots = {"ultraep_slots", Type::kGauge, "group",
                                  "Redundant slots of all ranks that one plan can use."};
inline constexpr Metric kTransfersTotal = {
    "ultraep_transfers_total", Type::kCounter, "group,kind=weights|gradients",
    "Experts' weights sent, and replicas' gradients added, by all local ranks."};
inline constexpr Metric kTransferBytesTotal = {
    "ultraep_transfer_bytes_total", Type::kCounter, "group,kind=weights|gradients",
    "Bytes of weights stored into remote slots, and of replicas' gradients added."};
inline constexpr Metric kRelayedBytesTotal = {
    "ultraep_relayed_bytes_total", Type::kCounter, "group",
    "Bytes of weights forwarded by relays; part of ultraep_transfer_bytes_total."};
inline constexpr Metric kTransferSecondsTotal = {
    "ultraep_transfer_seconds_total", Type::kCounter,
    "group,kind=weights|gradients,phase=copy|wait",
    "Seconds of copy threads, summed over threads and ranks: copying or adding, and waiting for "
    "peers."};
inline constexpr Metric kRanks = {"ultraep_ranks", Type::kGauge,
                                  "group,state=absent|joined|ready|left|gone|fenced",
                                  "Ranks of the group by state."};
inline constexpr Metric kGroupOpen = {"ultraep_group_open", Type::kGauge, "group",
                                      "1 while steps are planned, 0 while ranks use main copies."};
inline constexpr Metric kHeartbeatAge = {
    "ultraep_heartbeat_age_seconds", Type::kGauge, "group",
    "Age of the oldest heartbeat of a member. At ultraep_lease_seconds it is fenced."};
inline constexpr Metric kMemberLossesTotal = {"ultraep_member_losses_total", Type::kCounter,
                                              "group,reason=left|gone|fenced",
                                              "Ranks that left, died (connection or process gone), "
                                              "or were fenced (heartbeat older than the lease)."};
inline constexpr Metric kGenerationsTotal = {
    "ultraep_generations_total", Type::kCounter, "group",
    "Lives of the group's shared memory begun; each loss or restart of a member costs one."};
inline constexpr Metric kGroupMemoryBytes = {"ultraep_group_memory_bytes", Type::kGauge, "group",
                                             "Shared memory that the group occupies."};
inline constexpr Metric kGroupGpuMemoryBytes = {
    "ultraep_group_gpu_memory_bytes", Type::kGauge, "group",
    "Memory of GPUs that one generation of the group's slots takes, all ranks; 0: slots are in "
    "shared memory."};
inline constexpr Metric kLastPlanTimestamp = {
    "ultraep_last_plan_timestamp_seconds", Type::kGauge, "group",
    "Unix time of the last planned step. How long ago: time() - this."};

// --- the node ------------------------------------------------------------------------------------
inline constexpr Metric kCollectSeconds = {
    "ultraep_collect_seconds", Type::kHistogram, "",
    "From the first row of a step seen to the last: how far the ranks are apart, not our cost."};
inline constexpr Metric kSolveSeconds = {"ultraep_solve_seconds", Type::kHistogram, "",
                                         "The planner's search alone, per step."};
inline constexpr Metric kPlanSeconds = {
    "ultraep_plan_seconds", Type::kHistogram, "",
    "From the last row of a step seen to the verdict published: solve, check, record."};
inline constexpr Metric kVerdictSeconds = {"ultraep_submit_to_verdict_seconds", Type::kHistogram,
                                           "",
                                           "From a rank's submit to its knowing the verdict, per "
                                           "rank and step; waits for stragglers are in it."};
inline constexpr Metric kRouteSeconds = {"ultraep_route_seconds", Type::kHistogram, "",
                                         "Logical to physical ids of one step, per rank."};
inline constexpr Metric kStreamSeconds = {"ultraep_stream_seconds", Type::kHistogram, "",
                                          "From the issue of a stream or restore to the rank's "
                                          "slots being complete, per rank with replicas."};
inline constexpr Metric kReduceSeconds = {
    "ultraep_reduce_seconds", Type::kHistogram, "",
    "From the issue of a reduction to the rank's main gradients being complete, per rank with "
    "replicated experts."};
inline constexpr Metric kGroups = {"ultraep_groups", Type::kGauge, "",
                                   "EP groups that are served."};
inline constexpr Metric kConnections = {"ultraep_connections", Type::kGauge, "",
                                        "Open connections: ranks and operators."};
inline constexpr Metric kConnectionsLimit = {"ultraep_connections_limit", Type::kGauge, "",
                                             "Most open connections."};
inline constexpr Metric kRefusalsTotal = {
    "ultraep_refusals_total", Type::kCounter,
    "kind=limit|config|disagree|state|message|system|operator",
    "Connections and joins refused: a limit reached; a value no group may have; members that "
    "disagree; a place that is taken; not our protocol or another version; no memory or "
    "descriptors; an operator's request that cannot be met."};
inline constexpr Metric kMemoryBytes = {"ultraep_memory_bytes", Type::kGauge, "",
                                        "Shared memory of all groups."};
inline constexpr Metric kMemoryLimitBytes = {
    "ultraep_memory_limit_bytes", Type::kGauge, "",
    "Most shared memory for all groups as set by --memory_limit_mib; 0: from what is left."};
inline constexpr Metric kLeaseSeconds = {"ultraep_lease_seconds", Type::kGauge, "",
                                         "Heartbeat age at which a rank is fenced."};
inline constexpr Metric kDroppedTotal = {
    "ultraep_dropped_total", Type::kCounter, "queue=trace|events",
    "Steps that a recording missed and events that a reader missed, since they were slow."};
inline constexpr Metric kTraces = {"ultraep_traces", Type::kGauge, "",
                                   "Recordings under way (`ultraepctl trace record`)."};
inline constexpr Metric kTokenCostSeconds = {
    "ultraep_token_cost_seconds", Type::kGauge, "",
    "What a token costs on a rank as set by --cost_token_ns; 0: not known."};
inline constexpr Metric kGpuAvailable = {
    "ultraep_gpu_available", Type::kGauge, "",
    "1 when the daemon's CUDA backend can use a GPU of this node, for slots that the daemon owns; "
    "0 "
    "with --cuda_backend off (the default), and without driver or device. Ranks that own their "
    "slots do not need it."};
inline constexpr Metric kBuildInfo = {
    "ultraep_build_info", Type::kGauge, "version,layout,cuda",
    "1; what is running. cuda: version of the CUDA driver that the daemon uses, or none."};
inline constexpr Metric kScrapesTotal = {"ultraep_scrapes_total", Type::kCounter, "",
                                         "Scrapes answered."};
inline constexpr Metric kProcessCpu = {"process_cpu_seconds_total", Type::kCounter, "",
                                       "CPU time of the daemon, user and system."};
inline constexpr Metric kProcessResident = {
    "process_resident_memory_bytes", Type::kGauge, "",
    "Resident memory of the daemon, shared memory included."};
inline constexpr Metric kProcessVirtual = {"process_virtual_memory_bytes", Type::kGauge, "",
                                           "Virtual memory of the daemon."};
inline constexpr Metric kProcessOpenFds = {"process_open_fds", Type::kGauge, "",
                                           "Open file descriptors of the daemon."};
inline constexpr Metric kProcessMaxFds = {"process_max_fds", Type::kGauge, "",
                                          "Most open file descriptors of the daemon."};
inline constexpr Metric kProcessStartTime = {"process_start_time_seconds", Type::kGauge, "",
                                             "Unix time at which the daemon started."};

// --- detail: only with --metrics_detail_series
// ----------------------------------------------------
inline constexpr Metric kLayerImbalanceRatio = {
    "ultraep_layer_imbalance_ratio", Type::kGauge, "group,layer,stage=before|after",
    "As ultraep_imbalance_ratio, of the layer's last planned step."};
inline constexpr Metric kLayerRankTokensTotal = {
    "ultraep_layer_rank_tokens_total", Type::kCounter, "group,layer,rank",
    "Tokens that the rank received in the layer under the plans, summed over planned steps."};

// All of them, in the order of /metrics and of the table.
inline constexpr const Metric* kAll[] = {&kImbalanceRatio,
                                         &kRankTokensMax,
                                         &kRankTokensMean,
                                         &kRankTokensMaxTotal,
                                         &kRankTokensMeanTotal,
                                         &kRankTokensBoundTotal,
                                         &kTokensAvoidedTotal,
                                         &kOptimalityGapRatio,
                                         &kStepsTotal,
                                         &kRankStepsTotal,
                                         &kReplicas,
                                         &kReplicasTotal,
                                         &kSlots,
                                         &kTransfersTotal,
                                         &kTransferBytesTotal,
                                         &kRelayedBytesTotal,
                                         &kTransferSecondsTotal,
                                         &kRanks,
                                         &kGroupOpen,
                                         &kHeartbeatAge,
                                         &kMemberLossesTotal,
                                         &kGenerationsTotal,
                                         &kGroupMemoryBytes,
                                         &kGroupGpuMemoryBytes,
                                         &kLastPlanTimestamp,
                                         &kCollectSeconds,
                                         &kSolveSeconds,
                                         &kPlanSeconds,
                                         &kVerdictSeconds,
                                         &kRouteSeconds,
                                         &kStreamSeconds,
                                         &kReduceSeconds,
                                         &kGroups,
                                         &kConnections,
                                         &kConnectionsLimit,
                                         &kRefusalsTotal,
                                         &kMemoryBytes,
                                         &kMemoryLimitBytes,
                                         &kLeaseSeconds,
                                         &kDroppedTotal,
                                         &kTraces,
                                         &kTokenCostSeconds,
                                         &kGpuAvailable,
                                         &kBuildInfo,
                                         &kScrapesTotal,
                                         &kProcessCpu,
                                         &kProcessResident,
                                         &kProcessVirtual,
                                         &kProcessOpenFds,
                                         &kProcessMaxFds,
                                         &kProcessStartTime,
                                         &kLayerImbalanceRatio,
                                         &kLayerRankTokensTotal};

}  // namespace ultraep::metrics

// What ultraepctl asks the daemon, over the attach socket and after the same Hello as a rank:
//
//   StatusRequest  ->   <- StatusDaemon, StatusGroup..., StatusEnd, which says where to go on
//   EventsRequest  ->   <- Event..., EventsEnd
//   TraceRequest   ->   <- TraceStarted and the descriptor of a trace ring (trace_ring.h), or Refused;
//                       the recording ends when the connection closes
//
// A user is told of the own groups; root and the daemon's user of all. Groups answer with at most
// one packet each; the rest is polled, so that no slow reader is the daemon's concern.
#pragma once

#include <cstddef>
#include <cstdint>

#include "protocol/limits.h"
#include "protocol/message.h"
#include "protocol/rank_statistics.h"

namespace ultraep {

// head 16 | first 4 | zero 4                                                      24
struct StatusRequest {
  static constexpr MessageType kType = MessageType::kStatusRequest;
  MessageHead head = HeadOf(kType, 24);
  uint32_t first = 0;  // group to begin with: 0, then what StatusEnd says
  uint32_t zero = 0;
};
static_assert(sizeof(StatusRequest) == 24 && alignof(StatusRequest) == 4, "bump kLayoutVersion");

// Why connections and joins were refused.
enum class RefusalKind : uint32_t {
  kLimit = 0,     // connections, groups or memory
  kConfig = 1,    // a value that no group may have
  kDisagree = 2,  // with the group's other members
  kState = 3,     // joined already, another one's place, no such group
  kMessage = 4,   // not our protocol, or another version of it
  kSystem = 5,    // the machine had no memory or descriptors
  kOperator = 6,  // what an operator asked for cannot be had; no rank's concern
};
inline constexpr uint32_t kRefusalKinds = 7;

// What the daemon's own CUDA backend can do. kOpening: the driver has not answered yet.
enum class CudaUse : uint32_t { kOff = 0, kOpening = 1, kMissing = 2, kOpen = 3 };

// head 16 | build 64 | pid 8 | uptime 8 | groups 4 | connections 4 | max_connections 4 |
// metrics_port 4 | spin_us 8 | lease_ns 8 | memory 8 | memory_limit 8 | traces 4 | cuda 4 |
// trace_dropped 8 | events_dropped 8 | cost_token_ps 8 | refused 56 | cuda_devices 4 |
// cuda_driver 4 | cuda_found 160                                                  400
struct StatusDaemon {
  static constexpr MessageType kType = MessageType::kStatusDaemon;
  MessageHead head = HeadOf(kType, 400);
  char build[64] = {};
  int64_t pid = 0;
  uint64_t uptime_ns = 0;
  uint32_t groups = 0;  // that the caller may see
  uint32_t connections = 0;
  uint32_t max_connections = 0;
  uint32_t metrics_port = 0;  // 0: metrics are off
  uint64_t spin_us = 0;
  uint64_t lease_ns = 0;
  uint64_t memory_bytes = 0;
  uint64_t memory_limit_bytes = 0;  // 0: from what the machine has left
  uint32_t traces = 0;              // being recorded
  CudaUse cuda = CudaUse::kOff;
  uint64_t trace_dropped = 0;   // steps that a recording missed since its reader was slow
  uint64_t events_dropped = 0;  // that an events reader missed
  uint64_t cost_token_ps = 0;   // --cost_token_ns; 0: not known
  uint64_t refused[kRefusalKinds] = {};
  uint32_t cuda_devices = 0;   // that slots of the daemon can be on
  uint32_t cuda_driver = 0;    // 13000: 13.0
  char cuda_found[160] = {};   // in words: what there is, or why there is nothing
};
static_assert(offsetof(StatusDaemon, pid) == 80 && offsetof(StatusDaemon, spin_us) == 112 &&
                  offsetof(StatusDaemon, refused) == 176 &&
                  offsetof(StatusDaemon, cuda_found) == 240,
              "bump kLayoutVersion");
static_assert(sizeof(StatusDaemon) == 400 && alignof(StatusDaemon) == 8, "bump kLayoutVersion");

// Counters of one group over all its generations, counted by the daemon. Only planned steps are in
// the sums; `last` is the last planned one. Tokens, unless the name says otherwise. u64 each:
// steps_planned 0 | fallback_deadline 8 | fallback_order 16 | fallback_bad_row 24 | replicas 32
// peak_before_sum 40 | peak_sum 48 | lower_bound_sum 56 | tokens_sum 64 | last_peak_before 72
// last_peak 80 | last_lower_bound 88 | last_tokens 96 | last_replicas 104 | last_planned_ns 112
// members_left 120 | members_gone 128 | members_fenced 136                        144
struct GroupCounters {
  uint64_t steps_planned = 0;
  uint64_t fallback_deadline = 0;  // a rank's solve deadline was faster
  uint64_t fallback_order = 0;     // rows of a step with different layers or microbatches
  uint64_t fallback_bad_row = 0;   // rows whose content contradicts their header
  uint64_t replicas = 0;           // sum over planned steps
  uint64_t peak_before_sum = 0;    // most tokens on one rank without replicas
  uint64_t peak_sum = 0;           // the same under the plan
  uint64_t lower_bound_sum = 0;    // no plan could have less
  uint64_t tokens_sum = 0;         // of all ranks
  uint64_t last_peak_before = 0;
  uint64_t last_peak = 0;
  uint64_t last_lower_bound = 0;
  uint64_t last_tokens = 0;
  uint64_t last_replicas = 0;
  uint64_t last_planned_ns = 0;  // CLOCK_REALTIME; 0: none yet
  uint64_t members_left = 0;
  uint64_t members_gone = 0;  // died, or closed the connection
  uint64_t members_fenced = 0;

  uint64_t steps_fallback() const { return fallback_deadline + fallback_order + fallback_bad_row; }
};
static_assert(offsetof(GroupCounters, last_peak_before) == 72 &&
                  offsetof(GroupCounters, members_fenced) == 136,
              "bump kLayoutVersion");
static_assert(sizeof(GroupCounters) == 144 && alignof(GroupCounters) == 8, "bump kLayoutVersion");

// collect 0 | solve 160 | plan 320                                                480
struct PlanLatencies {
  LatencyHistogram collect;  // from the first row of a step seen to the last one
  LatencyHistogram solve;    // the planner alone
  LatencyHistogram plan;     // from the last row seen to the verdict: copy, solve, check, publish
};
static_assert(sizeof(PlanLatencies) == 480 && alignof(PlanLatencies) == 8 &&
                  offsetof(PlanLatencies, plan) == 320,
              "bump kLayoutVersion");

// head 16 | config 256 | uid .. device_bytes 72 | device 64 | counters 144 | planning 480 |
// ranks 896 | members 512                                                          2440
struct StatusGroup {
  static constexpr MessageType kType = MessageType::kStatusGroup;
  MessageHead head = HeadOf(kType, 2440);
  GroupConfig config;
  uint32_t uid = 0;
  uint32_t gate_state = 0;
  uint64_t gate_value = 0;
  uint64_t generation = 0;   // id of the present one, 0 before the first
  uint64_t generations = 0;  // made so far
  uint64_t next_sequence = 0;
  uint64_t memory_bytes = 0;
  uint64_t fallback_tokens_min = 0;  // smallest stated by a member, 0 = none stated
  uint64_t heartbeat_age_ns = 0;     // of the member that was silent longest; 0: no members
  uint64_t device_bytes = 0;         // of each rank's GPU; 0: slots are in memory_bytes
  char device[64] = {};              // what the ranks' GPUs are called, or the first of them
  GroupCounters counters;
  PlanLatencies planning;
  RankStatistics ranks;             // summed over all ranks and generations
  uint8_t members[kMaxRanks] = {};  // MemberState of each rank
};
static_assert(sizeof(StatusGroup) == 2440 && alignof(StatusGroup) == 8, "bump kLayoutVersion");
static_assert(offsetof(StatusGroup, counters) == 408 && offsetof(StatusGroup, ranks) == 1032,
              "bump kLayoutVersion");

// head 16 | next 4 | zero 4                                                       24
struct StatusEnd {
  static constexpr MessageType kType = MessageType::kStatusEnd;
  MessageHead head = HeadOf(kType, 24);
  uint32_t next = 0;  // `first` of the request that goes on; 0: these were all
  uint32_t zero = 0;
};
static_assert(sizeof(StatusEnd) == 24 && alignof(StatusEnd) == 4, "bump kLayoutVersion");

// What has happened since this connection's last request. head 16 | flags 4 | zero 4          24
struct EventsRequest {
  static constexpr MessageType kType = MessageType::kEventsRequest;
  enum : uint32_t { kVerdicts = 1, kHistory = 2 };
  MessageHead head = HeadOf(kType, 24);
  uint32_t flags = 0;  // of the first request, for all. kVerdicts: every verdict, not only fallbacks. kHistory:
                       // also what the daemon still knows of the time before
  uint32_t zero = 0;
};
static_assert(sizeof(EventsRequest) == 24 && alignof(EventsRequest) == 4, "bump kLayoutVersion");

enum class EventKind : uint16_t {
  kPlan = 1,  // sequence, layer, microbatch; peak_before, peak, tokens, replicas, latency: solve;
              // value: ranks of the group
  kFallback = 2,  // sequence, layer, microbatch; reason
  kJoined = 3,    // rank; value: its pid
  kOpened = 4,    // a generation: sequence: first planned step
  kOver = 5,      // a generation; the events before say why
  kLeft = 6,      // rank
  kGone = 7,      // rank
  kFenced = 8,    // rank
  kFailed = 9,    // a generation: a rank could not follow a plan
  kRefused = 10,  // text; value: pid
  kCreated = 11,  // the group; value: bytes of shared memory
  kClosed = 12,   // the group
};
enum class FallbackReason : uint16_t { kNone = 0, kDeadline = 1, kOrderMismatch = 2, kBadRow = 3 };

// head 16 | time 8 | kind 2 | reason 2 | rank 4 | sequence 8 | layer 4 | microbatch 4 |
// peak_before 8 | peak 8 | tokens 8 | replicas 8 | latency 8 | value 8 | group 64 | text 160     320
struct Event {
  static constexpr MessageType kType = MessageType::kEvent;
  MessageHead head = HeadOf(kType, 320);
  uint64_t time_ns = 0;  // CLOCK_REALTIME
  uint16_t kind = 0;     // EventKind
  uint16_t reason = 0;   // FallbackReason
  uint32_t rank = 0;
  uint64_t sequence = 0;
  uint32_t layer = 0;
  uint32_t microbatch = 0;
  uint64_t peak_before = 0;
  uint64_t peak = 0;
  uint64_t tokens = 0;  // of all ranks
  uint64_t replicas = 0;
  uint64_t latency_ns = 0;
  uint64_t value = 0;
  char group[64] = {};
  char text[160] = {};
};
static_assert(sizeof(Event) == 320 && alignof(Event) == 8 && offsetof(Event, group) == 96,
              "bump kLayoutVersion");

// head 16 | more 4 | zero 4 | missed 8                                            32
struct EventsEnd {
  static constexpr MessageType kType = MessageType::kEventsEnd;
  MessageHead head = HeadOf(kType, 32);
  uint32_t more = 0;  // 1: ask again at once
  uint32_t zero = 0;
  uint64_t missed = 0;  // events that were overwritten before this request
};
static_assert(sizeof(EventsEnd) == 32 && alignof(EventsEnd) == 8, "bump kLayoutVersion");

// Records the steps of the named group from now on; one recording per group.
// head 16 | group 64 | ring_bytes 8                                               88
struct TraceRequest {
  static constexpr MessageType kType = MessageType::kTraceRequest;
  MessageHead head = HeadOf(kType, 88);
  char group[64] = {};      // empty: the only one that the caller may see
  uint64_t ring_bytes = 0;  // 0: the daemon's default
};
static_assert(sizeof(TraceRequest) == 88 && alignof(TraceRequest) == 8, "bump kLayoutVersion");

// One descriptor travels with it: the trace ring. What the plans are a function of, besides the
// loads.
// head 16 | config 256 | ring_bytes 8 | epsilon_ppm 4 | variants 4 | work_limit 4 |
// tile_tokens 4 | relay_hop 4 | zero 4 | cost_token 8 | cost_expert 8 | cost_instance 8         328
struct TraceStarted {
  static constexpr MessageType kType = MessageType::kTraceStarted;
  MessageHead head = HeadOf(kType, 328);
  GroupConfig config;
  uint64_t ring_bytes = 0;
  uint32_t epsilon_ppm = 0;
  uint32_t variants = 0;
  uint32_t work_limit = 0;
  uint32_t tile_tokens = 0;
  uint32_t relay_hop = 0;
  uint32_t zero = 0;
  uint64_t cost_token_ps = 0;
  uint64_t cost_expert_ps = 0;
  uint64_t cost_instance_ps = 0;
};
static_assert(sizeof(TraceStarted) == 328 && alignof(TraceStarted) == 8 &&
                  offsetof(TraceStarted, epsilon_ppm) == 280,
              "bump kLayoutVersion");

}  // namespace ultraep

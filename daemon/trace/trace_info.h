// What a trace directory holds besides the loads: the rows of its arrays and trace.json. Readme:
// daemon/trace/README.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "daemon/planner/plan_options.h"
#include "protocol/load.h"

namespace ultraep::trace {

inline constexpr const char* kLoadsFile = "loads.npy";
inline constexpr const char* kStepsFile = "steps.npy";
inline constexpr const char* kReplicasFile = "replicas.npy";
inline constexpr const char* kInfoFile = "trace.json";

// One row of steps.npy.
struct StepRow {
  int64_t sequence = 0;
  int64_t layer = 0;
  int64_t microbatch = 0;
  int64_t verdict = 0;  // Verdict; 0: nobody planned it
  int64_t reason = 0;   // FallbackReason
  int64_t tokens = 0;
  int64_t peak_before = 0;
  int64_t peak = 0;
  int64_t lower_bound = 0;
  int64_t replicas = 0;
  int64_t first_replica = 0;  // row of replicas.npy
  int64_t solve_ns = 0;
  int64_t time_ns = 0;     // CLOCK_REALTIME
  int64_t generation = 0;  // 0, 1, .. in order of appearance
  int64_t zero[2] = {};

  bool operator==(const StepRow&) const = default;
};
static_assert(sizeof(StepRow) == 16 * 8);
inline constexpr const char* kStepColumns[] = {
    "sequence",    "layer",      "microbatch",  "verdict",  "reason",        "tokens",
    "peak_before", "peak",       "lower_bound", "replicas", "first_replica", "solve_ns",
    "time_ns",     "generation", "zero",        "zero"};

// One row of replicas.npy.
struct ReplicaRow {
  int64_t step = 0;  // row of steps.npy
  int64_t expert = 0;
  int64_t rank = 0;
  int64_t slot = 0;
  int64_t parent = -1;  // -1: the main copy, else index within the step's replicas
  int64_t tokens = 0;
};
static_assert(sizeof(ReplicaRow) == 6 * 8);
inline constexpr const char* kReplicaColumns[] = {"step", "expert", "rank",
                                                  "slot", "parent", "tokens"};

// What stands in trace.json.
struct TraceInfo {
  std::string group;
  PlanShape shape;  // slots 0: not known
  uint32_t layers = 0;
  uint32_t slot_sets = 0;
  bool training = false;
  uint64_t expert_bytes = 0;
  PlanOptions options;  // speeds and without_slots are never recorded
  uint64_t steps = 0;
  uint64_t replicas = 0;
  uint64_t dropped = 0;  // steps that the recorder missed
  std::string started;   // ISO 8601, UTC
  double seconds = 0;
  std::string source;

  std::string ToJson() const;
  // Empty, or what is wrong with the text.
  std::string FromJson(std::string_view text);
};

}  // namespace ultraep::trace

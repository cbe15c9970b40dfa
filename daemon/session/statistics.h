// What a group's steps came to, over all its generations: counters, latencies, the last verdicts,
// and the recording that is under way. The planner writes without waiting for a reader.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/session/trace_tap.h"
#include "daemon/session/verdict_ring.h"
#include "protocol/boards.h"
#include "protocol/operator_messages.h"
#include "protocol/plan.h"

namespace ultraep {

// One layer's planned steps; with --metrics_detail_series only.
struct LayerStatistics {
  uint64_t steps = 0;
  uint64_t last_peak_before = 0;
  uint64_t last_peak = 0;
  uint64_t last_tokens = 0;
  // [ranks] received under the plans, summed over steps; may be empty: no room
  std::vector<uint64_t> rank_tokens;
};

// A decided step as the planner thread hands it over.
struct StepOutcome {
  StepVerdict verdict;
  PlanShape shape;
  LoadView load;  // null when not all rows were seen, or one was wrong
  const std::vector<Replica>* replicas = nullptr;  // null without a plan
  uint64_t collect_ns = 0;                         // from the first row to the last; with a load
  uint64_t plan_ns = 0;                            // from the last row to the verdict; with a plan
};

class StepStatistics {
 public:
  // The planner thread.
  void Count(const StepOutcome& step);

  // The session thread. Before the first step: keeps numbers per layer. ranks: 0: none per rank.
  void KeepLayers(uint32_t layers, uint32_t ranks);
  // That metrics make of them.
  uint64_t detail_series() const;
  void Lost(MemberState how);
  // Null ends the recording.
  void Record(std::shared_ptr<TraceTap> tap);
  bool recorded() const { return traced_.load(std::memory_order_relaxed); }

  // Any thread.
  GroupCounters Counters() const;
  PlanLatencies Planning() const;
  std::vector<LayerStatistics> Layers() const;
  const VerdictRing& verdicts() const { return verdicts_; }
  const VerdictRing& fallbacks() const { return fallbacks_; }  // kept longer

 private:
  void CountPlan(const StepOutcome& step);
  void CountFallback(const StepVerdict& verdict);
  void CountLayer(const StepOutcome& step);
  void Trace(const StepOutcome& step);

  GroupCounters counters_;  // `last_...`: in last_plan_
  PlanLatencies planning_;
  VerdictRing verdicts_{1024}, fallbacks_{128}, last_plan_{4};
  std::vector<LayerStatistics> layers_;
  std::vector<uint64_t> rank_tokens_;  // scratch
  std::atomic<bool> traced_{false};
  std::mutex tap_mutex_;  // guards tap_; taken by the planner only while a recording is under way
  std::shared_ptr<TraceTap> tap_;
};

}  // namespace ultraep

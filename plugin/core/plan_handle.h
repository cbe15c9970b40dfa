// A plan as the framework holds it: row, record and verdict of one step, copied out of shared
// memory and reference-counted (rule 9). It holds no shared memory but that of its operation under
// way.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "kernels/route_tokens.h"
#include "plugin/api/ultraep.h"
#include "plugin/core/result.h"
#include "plugin/core/steps.h"
#include "plugin/core/streamer.h"

// The C ABI's opaque type.
struct ultraep_plan {
 public:
  ultraep_plan(ultraep::ResolvedStep step, const ultraep::GroupConfig& config, uint32_t source,
               std::shared_ptr<ultraep::MemorySwitch> memory);
  ~ultraep_plan();

  void Retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void Free();

  ultraep_plan_info Info() const;
  ultraep::Result Replicas(ultraep_replica* out, uint32_t capacity) const;
  ultraep::Result Route(const int32_t* ids, uint64_t tokens, uint32_t top_k,
                        int32_t* physical) const;
  ultraep::Result Stream(uint32_t slot_set, const void* const* mains);
  ultraep::Result AwaitWeights(uint64_t timeout_ns);
  ultraep::Result Slot(uint32_t slot, uint32_t* expert, const void** shards) const;
  ultraep::Result Release(uint64_t timeout_ns);
  ultraep::Result Stats(ultraep_stream_stats* stats) const;
  // A forked child has the handle but not the memory behind it.
  bool forked() const;
  // For waits without a timeout of their own.
  uint64_t step_timeout_ns() const { return config_.step_timeout_ns; }

 private:
  // An operation of this plan, and the memory it is in.
  struct Operation {
    std::shared_ptr<ultraep::Generation> generation;
    std::shared_ptr<ultraep::Stream> stream;
  };

  bool Moves() const;
  Operation operation() const;

  const int forks_;  // of the process when the plan was made
  std::atomic<int> references_{1};
  const ultraep::ResolvedStep step_;
  const ultraep::GroupConfig config_;
  const uint32_t source_;
  const std::shared_ptr<ultraep::MemorySwitch> memory_;
  const ultraep::TokenRouter router_;
  mutable std::mutex mutex_;  // guards what follows
  Operation operation_;       // under way; empty once released
  bool streamed_ = false;
  uint64_t last_number_ = 0;  // of the last operation
  uint32_t last_set_ = 0;
  ultraep::StreamTally tally_;  // of the last one released
};

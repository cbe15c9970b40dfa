// A plan as the framework holds it: row, record and verdict of one step, copied out of shared
// memory and reference-counted (rule 9). It holds no shared memory but that of its operation under
// way.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "kernels/route_tokens.h"
#include "plugin/api/ultraep.h"
#include "plugin/core/reducer.h"
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
  ultraep::Result PrepareGradients(bool zero, uint64_t timeout_ns);
  ultraep::Result Gradient(uint32_t slot, uint32_t* expert, float** parts) const;
  ultraep::Result ReduceGradients(void* const* mains, ultraep::GradientType type, bool any_order);
  ultraep::Result AwaitGradients(uint64_t timeout_ns);
  ultraep::Result Release(uint64_t timeout_ns);
  ultraep::Result Stats(ultraep_stream_stats* stats) const;
  ultraep::Result Stats(ultraep_reduce_stats* stats) const;
  // A forked child has the handle but not the memory behind it.
  bool forked() const;
  // For waits without a timeout of their own.
  uint64_t step_timeout_ns() const { return config_.step_timeout_ns; }

 private:
  // Operations of this plan under way, and the memory they are in.
  struct Streaming {
    std::shared_ptr<ultraep::Generation> generation;
    std::shared_ptr<ultraep::Stream> stream;
  };
  struct Reducing {
    std::shared_ptr<ultraep::Generation> generation;
    std::shared_ptr<ultraep::Reduce> reduce;
  };

  void FailWhatItOwes();
  bool Moves() const;
  ultraep::Result CheckGradients() const;
  ultraep::Result LostOrOk() const;
  // The replica in a slot of this rank, or null.
  ultraep::Result InSlot(uint32_t slot, const ultraep::Replica** replica) const;
  Streaming streaming() const;
  Reducing reducing() const;

  const int forks_;  // of the process when the plan was made
  std::atomic<int> references_{1};
  const ultraep::ResolvedStep step_;
  const ultraep::GroupConfig config_;
  const uint32_t source_;
  const std::shared_ptr<ultraep::MemorySwitch> memory_;
  const ultraep::TokenRouter router_;
  mutable std::mutex mutex_;  // guards what follows
  Streaming streaming_;       // empty once released
  Reducing reducing_;         // empty once awaited
  bool streamed_ = false;     // a further stream is a restore
  // Peers count on a part of this rank that it has not issued, and no call has said so: the first
  // stream; a call that ran out of memory; the reduction of gradients that are prepared.
  bool owes_;
  std::shared_ptr<ultraep::Generation> owes_in_;  // null: in the plan's own
  std::string lost_;          // why the last operation failed; empty: it did not
  uint64_t last_number_ = 0;  // of the last operation
  uint32_t last_set_ = 0;
  ultraep_stream_stats stream_stats_{};  // of the last one released
  ultraep_reduce_stats reduce_stats_{};  // of the last one awaited
};

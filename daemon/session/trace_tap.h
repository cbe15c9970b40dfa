// The planner's end of a recording: puts whole steps into a trace ring, never waits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "protocol/trace_ring.h"
#include "protocol/transport/mapping.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

// Bounds of a ring's size. The default holds some hundred steps of 64 ranks and 256 experts.
inline constexpr uint64_t kTraceRingDefault = uint64_t{16} << 20;
inline constexpr uint64_t kTraceRingMost = uint64_t{256} << 20;

class TraceTap {
 public:
  // ring_bytes: at least; rounded up to a power of two and so that two steps fit. Null with `wrong`
  // set when the memory cannot be had.
  static std::shared_ptr<TraceTap> Create(const PlanShape& shape, uint64_t ring_bytes,
                                          std::string* wrong);

  // The planner thread. replicas: null for a fallback.
  void Push(TraceRecord record, LoadView load, const std::vector<Replica>* replicas);

  // Any thread.
  int file() const { return file_.get(); }
  uint64_t capacity() const { return capacity_; }
  uint64_t dropped() const { return ring_->dropped.value.load(std::memory_order_relaxed); }

 private:
  TraceTap() = default;
  void Put(uint64_t at, const void* from, uint64_t bytes);

  Descriptor file_;
  Mapping mapping_;
  TraceRing* ring_ = nullptr;
  uint64_t capacity_ = 0;
  uint64_t head_ = 0;  // ours: what is in the ring may be overwritten by its reader
};

}  // namespace ultraep

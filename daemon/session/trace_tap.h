// The planner's end of a recording: puts whole steps into a trace ring, never waits.
#pragma once

#include <atomic>
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
  // Of a ring of at least ring_bytes (0: the default): a power of two in which two steps fit.
  static uint64_t Capacity(const PlanShape& shape, uint64_t ring_bytes);
  // Null with `wrong` set when the memory cannot be had.
  static std::shared_ptr<TraceTap> Create(const PlanShape& shape, uint64_t ring_bytes,
                                          std::string* wrong);

  // The planner thread. replicas: null for a fallback.
  void Push(TraceRecord record, LoadView load, const std::vector<Replica>* replicas);

  // Any thread.
  int file() const { return file_.get(); }
  uint64_t capacity() const { return capacity_; }
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }
  // A step that was not even tried.
  void Drop();
  // No longer pushed to: gives its pages back, also those that others map.
  void Empty();

 private:
  TraceTap() = default;
  void Put(uint64_t at, const void* from, uint64_t bytes);

  Descriptor file_;
  Mapping mapping_;
  TraceRing* ring_ = nullptr;
  uint64_t capacity_ = 0;
  // Ours: what is in the ring may be overwritten by its reader.
  uint64_t head_ = 0;
  std::atomic<uint64_t> dropped_{0};
};

}  // namespace ultraep

// The reading end of a trace ring. The daemon made it, but nothing in it is believed before it is
// checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/trace_ring.h"
#include "protocol/transport/mapping.h"

namespace ultraep::trace {

struct RingStep {
  TraceRecord record;
  std::vector<uint32_t> tokens;  // [rank][expert]
  std::vector<Replica> replicas;

  LoadView load(const PlanShape& shape) const {
    return {tokens.data(), shape.ranks, shape.experts};
  }
};

class RingReader {
 public:
  // Empty, or why the descriptor is no ring for this shape.
  std::string Map(int fd, const PlanShape& shape);

  // Takes the next step out of the ring. Empty when all went well, with *any false when there is
  // none now; else what is wrong with the ring: nothing more can be read from it.
  std::string Take(RingStep* step, bool* any);

  uint64_t dropped() const { return ring()->dropped.value.load(std::memory_order_relaxed); }

 private:
  TraceRing* ring() const { return reinterpret_cast<TraceRing*>(mapping_.base()); }
  void Copy(uint64_t at, void* to, uint64_t bytes) const;
  std::string CheckRecord(const TraceRecord& record, uint64_t available) const;

  PlanShape shape_;
  Mapping mapping_;
  uint64_t capacity_ = 0;
  uint64_t tail_ = 0;
  std::vector<uint64_t> buffer_;
};

}  // namespace ultraep::trace

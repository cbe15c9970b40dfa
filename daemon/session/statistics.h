// What a group's steps came to, over all its generations.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "protocol/message.h"
#include "protocol/plan.h"

namespace ultraep {

// Any thread.
class StepStatistics {
 public:
  void Planned(const Certificate& certificate, uint32_t ranks, uint64_t replicas,
               uint64_t solve_ns);
  enum class Reason { kDeadline, kOrderMismatch, kBadRow };
  void FellBack(Reason reason);
  GroupCounters Counters() const;

 private:
  mutable std::mutex mutex_;
  GroupCounters counters_;
  std::vector<uint64_t> solve_ns_;  // ring of the last solves
};

}  // namespace ultraep

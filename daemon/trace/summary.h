// What a trace comes to: the figures of `ultraepctl trace info` and of the report's head.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "daemon/trace/trace_info.h"

namespace ultraep::trace {

// Of the steps' imbalance; `mean` is the sum of their peaks over the sum of their means, as in
// status, top and the metrics: large steps weigh more.
struct Distribution {
  double mean = 0, p50 = 0, p99 = 0, worst = 0;
  uint64_t worst_step = 0;
};

struct Summary {
  uint64_t steps = 0, planned = 0, fallback = 0, unplanned = 0;
  uint64_t fallback_by_reason[4] = {};  // FallbackReason
  uint64_t tokens = 0;
  uint64_t peak_before = 0;  // sum
  uint64_t avoided = 0;      // sum of peak before minus peak after
  uint64_t replicas = 0;
  uint64_t most_replicas = 0;  // of one step
  int64_t first_ns = 0, last_ns = 0;
  std::set<int64_t> layers, generations;
  Distribution before, after, floor;  // imbalance of the steps
  double gap = 0;                 // mean over planned steps of the peak above the bound
  double solve_p50_us = 0, solve_p99_us = 0;
};

class Summarizer {
 public:
  explicit Summarizer(uint32_t ranks) : ranks_(ranks) {}

  // Steps in order.
  void Add(const StepRow& row);
  Summary Finish();

 private:
  uint32_t ranks_;
  Summary sum_;
  std::vector<float> before_, after_, floor_, solve_us_;
  double gap_sum_ = 0;
  uint64_t bound_sum_ = 0;
};

}  // namespace ultraep::trace

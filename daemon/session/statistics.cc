#include "daemon/session/statistics.h"

#include <algorithm>

namespace ultraep {
namespace {

constexpr size_t kSolvesRemembered = 4096;

}  // namespace

void StepStatistics::Planned(const Certificate& c, uint32_t ranks, uint64_t replicas,
                             uint64_t solve_ns) {
  std::lock_guard lock(mutex_);
  if (solve_ns_.size() < kSolvesRemembered)
    solve_ns_.push_back(solve_ns);
  else
    solve_ns_[counters_.steps_planned % kSolvesRemembered] = solve_ns;
  ++counters_.steps_planned;
  counters_.replicas += replicas;
  counters_.peak_before_sum += c.peak_before;
  counters_.peak_sum += c.peak;
  counters_.lower_bound_sum += c.lower_bound;
  counters_.tokens_sum += c.total;
  counters_.last_imbalance_before = Imbalance(c.peak_before, c.total, ranks);
  counters_.last_imbalance_after = Imbalance(c.peak, c.total, ranks);
}

void StepStatistics::FellBack(Reason reason) {
  std::lock_guard lock(mutex_);
  ++counters_.steps_fallback;
  counters_.order_mismatch += reason == Reason::kOrderMismatch;
  counters_.bad_rows += reason == Reason::kBadRow;
}

GroupCounters StepStatistics::Counters() const {
  GroupCounters counters;
  std::vector<uint64_t> solves;
  {
    std::lock_guard lock(mutex_);
    counters = counters_;
    solves = solve_ns_;
  }
  if (!solves.empty()) {
    std::sort(solves.begin(), solves.end());
    counters.solve_p50_ns = solves[solves.size() / 2];
    counters.solve_p99_ns = solves[solves.size() * 99 / 100];
  }
  return counters;
}

}  // namespace ultraep

#include "daemon/trace/summary.h"

#include <algorithm>

#include "protocol/plan.h"
#include "protocol/verdict_board.h"

namespace ultraep::trace {
namespace {

float Percentile(const std::vector<float>& sorted, double part) {
  return sorted.empty() ? 0 : sorted[size_t(part * double(sorted.size() - 1) + 0.5)];
}

Distribution DistributionOf(std::vector<float> values, double mean) {
  Distribution out;
  if (values.empty()) return out;
  out.mean = mean;
  out.worst_step = uint64_t(std::max_element(values.begin(), values.end()) - values.begin());
  std::sort(values.begin(), values.end());
  out.p50 = Percentile(values, 0.5);
  out.p99 = Percentile(values, 0.99);
  out.worst = values.back();
  return out;
}

}  // namespace

void Summarizer::Add(const StepRow& row) {
  ++sum_.steps;
  if (row.verdict == int64_t(Verdict::kPlan)) {
    ++sum_.planned;
    gap_sum_ += row.lower_bound ? double(row.peak) / double(row.lower_bound) - 1 : 0;
    solve_us_.push_back(float(double(row.solve_ns) / 1e3));
  } else if (row.verdict == int64_t(Verdict::kNone)) {
    ++sum_.unplanned;
  } else {
    ++sum_.fallback;
    ++sum_.fallback_by_reason[row.reason >= 0 && row.reason < 4 ? row.reason : 0];
  }
  sum_.tokens += uint64_t(row.tokens);
  sum_.peak_before += uint64_t(row.peak_before);
  sum_.avoided += uint64_t(row.peak_before - row.peak);
  bound_sum_ += uint64_t(row.lower_bound);
  sum_.replicas += uint64_t(row.replicas);
  sum_.most_replicas = std::max(sum_.most_replicas, uint64_t(row.replicas));
  if (row.time_ns && !sum_.first_ns) sum_.first_ns = row.time_ns;
  sum_.last_ns = std::max(sum_.last_ns, row.time_ns);
  sum_.layers.insert(row.layer);
  sum_.generations.insert(row.generation);
  const auto tokens = uint64_t(row.tokens);
  before_.push_back(float(Imbalance(uint64_t(row.peak_before), tokens, ranks_)));
  after_.push_back(float(Imbalance(uint64_t(row.peak), tokens, ranks_)));
  floor_.push_back(float(Imbalance(uint64_t(row.lower_bound), tokens, ranks_)));
}

Summary Summarizer::Finish() {
  const auto mean = [this](uint64_t peaks) { return Imbalance(peaks, sum_.tokens, ranks_); };
  sum_.before = DistributionOf(before_, mean(sum_.peak_before));
  sum_.after = DistributionOf(after_, mean(sum_.peak_before - sum_.avoided));
  sum_.floor = DistributionOf(floor_, mean(bound_sum_));
  if (sum_.planned) sum_.gap = gap_sum_ / double(sum_.planned);
  std::sort(solve_us_.begin(), solve_us_.end());
  sum_.solve_p50_us = Percentile(solve_us_, 0.5);
  sum_.solve_p99_us = Percentile(solve_us_, 0.99);
  return sum_;
}

}  // namespace ultraep::trace

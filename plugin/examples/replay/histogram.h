// Counts of values in buckets that grow with the value, so that a run of any length has percentiles
// in a fixed amount of memory. A value is off by at most 1/2048 of itself; mean and maximum are
// exact.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

namespace ultraep::replay {

// Written by one process, read by another once the writer is gone. A writer that is killed inside
// Add spoils that one value at most. All zero is empty: it may lie in fresh memory without a
// constructor. Untouched pages of `buckets` cost nothing.
struct Histogram {
  static constexpr int kBits = 10;  // buckets per factor of two: 1024
  static constexpr uint64_t kBuckets = uint64_t{64 - kBits + 1} << kBits;

  uint64_t count;
  uint64_t sum;
  uint64_t max;
  uint64_t buckets[kBuckets];

  static uint64_t BucketOf(uint64_t value) {
    if (value >> kBits == 0) return value;
    const int shift = std::bit_width(value) - 1 - kBits;
    return (uint64_t(shift) << kBits) + (value >> shift);
  }

  static double MiddleOf(uint64_t bucket) {
    if (bucket >> (kBits + 1) == 0) return static_cast<double>(bucket);
    const uint64_t shift = (bucket >> kBits) - 1;
    const uint64_t low = (bucket - (shift << kBits)) << shift;
    return static_cast<double>(low) + static_cast<double>(uint64_t{1} << shift) / 2;
  }

  void Add(uint64_t value) {
    ++buckets[BucketOf(value)];
    sum += value;
    max = std::max(max, value);
    // Last: Percentile relies on the buckets having no fewer values than this.
    std::atomic_ref(count).store(count + 1, std::memory_order_release);
  }

  void Add(const Histogram& other) {
    count += other.count;
    sum += other.sum;
    max = std::max(max, other.max);
    for (uint64_t b = 0; b < kBuckets; ++b) buckets[b] += other.buckets[b];
  }

  double mean() const { return count ? static_cast<double>(sum) / static_cast<double>(count) : 0; }

  // The smallest value that at least `share` of all values do not exceed; 0 when empty.
  double Percentile(double share) const {
    const auto wanted = static_cast<uint64_t>(share * static_cast<double>(count) + 0.999999);
    if (wanted >= count) return static_cast<double>(max);
    uint64_t seen = 0;
    for (uint64_t b = 0; b < kBuckets; ++b) {
      seen += buckets[b];
      if (seen >= wanted && seen > 0) return MiddleOf(b);
    }
    return 0;
  }
};

}  // namespace ultraep::replay

// Latencies as histograms of fixed buckets: what a rank or the planner counts with two additions,
// and what Prometheus, `ultraepctl top` and the status page all show.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ultraep {

// Upper bounds in nanoseconds: 1 us to 100 ms, close together where UltraEP's published figures lie
// (solve 67-78 us, reroute 36-39 us, weights 188-317 us, exposed below 300 us).
inline constexpr uint64_t kLatencyBoundsNs[] = {
    1'000,   2'000,   5'000,   10'000,  20'000,    30'000,    50'000,    75'000,     100'000,
    150'000, 200'000, 300'000, 500'000, 1'000'000, 2'000'000, 5'000'000, 10'000'000, 100'000'000};
inline constexpr uint32_t kLatencyBounds = sizeof kLatencyBoundsNs / sizeof kLatencyBoundsNs[0];

constexpr uint32_t LatencyBucket(uint64_t ns) {
  uint32_t bucket = 0;
  while (bucket < kLatencyBounds && ns > kLatencyBoundsNs[bucket]) ++bucket;
  return bucket;
}

//    0        8                                        160
//   +--------+----------------------------------------+
//   | sum_ns | buckets[19]: <= each bound, then above |
//   +--------+----------------------------------------+
// A bucket holds its own latencies only, not those of the buckets below it.
struct LatencyHistogram {
  uint64_t sum_ns = 0;
  uint64_t buckets[kLatencyBounds + 1] = {};

  uint64_t count() const {
    uint64_t sum = 0;
    for (const uint64_t bucket : buckets) sum += bucket;
    return sum;
  }
  void Add(const LatencyHistogram& more) {
    sum_ns += more.sum_ns;
    for (uint32_t i = 0; i <= kLatencyBounds; ++i) buckets[i] += more.buckets[i];
  }
  // What came since `earlier`, an earlier reading of the same histogram.
  LatencyHistogram Since(const LatencyHistogram& earlier) const {
    LatencyHistogram since;
    since.sum_ns = sum_ns - earlier.sum_ns;
    for (uint32_t i = 0; i <= kLatencyBounds; ++i)
      since.buckets[i] = buckets[i] - earlier.buckets[i];
    return since;
  }
  double mean_ns() const { return count() ? double(sum_ns) / double(count()) : 0; }
  // Linear within its bucket, as Prometheus computes it; the last bound for what is above it. 0
  // when nothing was counted. quantile: 0..1.
  double Quantile(double quantile) const {
    const double wanted = quantile * double(count());
    double below = 0;
    if (wanted <= 0) return 0;
    for (uint32_t i = 0; i < kLatencyBounds; ++i) {
      const double here = double(buckets[i]);
      const double low = i ? double(kLatencyBoundsNs[i - 1]) : 0;
      if (here > 0 && below + here >= wanted)
        return low + (double(kLatencyBoundsNs[i]) - low) * (wanted - below) / here;
      below += here;
    }
    return double(kLatencyBoundsNs[kLatencyBounds - 1]);
  }
};
static_assert(sizeof(LatencyHistogram) == 160 && alignof(LatencyHistogram) == 8 &&
                  offsetof(LatencyHistogram, buckets) == 8,
              "bump kLayoutVersion");

// Counting in memory that others read meanwhile: relaxed, no lock. Each word is exact; a reader may
// see one of two before the other. Shared: any thread of a process counts, some five nanoseconds.
// Alone: the one thread that writes the word, about one.
inline void CountShared(uint64_t* word, uint64_t more) {
  __atomic_fetch_add(word, more, __ATOMIC_RELAXED);
}
inline void CountAlone(uint64_t* word, uint64_t more) {
  __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + more, __ATOMIC_RELAXED);
}
inline void CountLatencyShared(LatencyHistogram* histogram, uint64_t ns) {
  CountShared(&histogram->sum_ns, ns);
  CountShared(&histogram->buckets[LatencyBucket(ns)], 1);
}
inline void CountLatencyAlone(LatencyHistogram* histogram, uint64_t ns) {
  CountAlone(&histogram->sum_ns, ns);
  CountAlone(&histogram->buckets[LatencyBucket(ns)], 1);
}

}  // namespace ultraep

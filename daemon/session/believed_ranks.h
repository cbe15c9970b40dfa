// What of the ranks' own statistics is shown. Ranks write them into memory that is theirs; sums
// over all users' groups must stay right whatever one user's ranks write there.
#pragma once

#include <cstdint>
#include <mutex>

#include "protocol/rank_statistics.h"

namespace ultraep {

// Of one group. A word never goes down, and never says more than a group can count in the time that
// it has existed; what does not fit is not taken over, and that word stands still until it fits
// again. So forged words cost their own group its numbers, and others' sums a bounded error.
class BelievedRanks {
 public:
  // Of all ranks together: far above what a node can do, far below what overflows in years.
  static constexpr uint64_t kCountsPerSecond = 1'000'000'000;
  static constexpr uint64_t kAmountsPerSecond = 100'000'000'000'000;  // bytes, nanoseconds

  explicit BelievedRanks(uint64_t now_ns) : born_ns_(now_ns) {}

  // Any thread. read: what the words say at `now_ns`. Returns what is believed of it.
  RankStatistics Believe(const RankStatistics& read, uint64_t now_ns);

 private:
  const uint64_t born_ns_;
  std::mutex mutex_;  // guards what follows
  RankStatistics believed_;
};

}  // namespace ultraep

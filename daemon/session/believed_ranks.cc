#include "daemon/session/believed_ranks.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace ultraep {
namespace {

using Words = std::array<uint64_t, sizeof(RankStatistics) / 8>;

Words WordsOf(const RankStatistics& statistics) {
  Words words;
  std::memcpy(words.data(), &statistics, sizeof statistics);
  return words;
}

// The most that each word may grow by in a second.
Words MostPerSecond() {
  Words counts;
  counts.fill(BelievedRanks::kCountsPerSecond);
  RankStatistics most;
  std::memcpy(static_cast<void*>(&most), counts.data(), sizeof most);
  TransferTotals& t = most.transfers;
  for (uint64_t* amount :
       {&t.sent_bytes, &t.relayed_bytes, &t.reduced_bytes, &t.copy_ns, &t.send_wait_ns, &t.send_ns,
        &t.arrive_ns, &t.add_ns, &t.reduce_wait_ns, &t.reduce_ns, &t.prepare_ns,
        &most.verdict.sum_ns, &most.route.sum_ns, &most.stream.sum_ns, &most.reduce.sum_ns})
    *amount = BelievedRanks::kAmountsPerSecond;
  return WordsOf(most);
}

}  // namespace

RankStatistics BelievedRanks::Believe(const RankStatistics& read, uint64_t now_ns) {
  static const Words most_per_second = MostPerSecond();
  const Words words = WordsOf(read);
  std::lock_guard lock(mutex_);
  Words believed = WordsOf(believed_);
  // One more, for readings just after the start.
  const double seconds = 1 + double(now_ns - std::min(now_ns, born_ns_)) / 1e9;
  for (size_t i = 0; i < words.size(); ++i)
    if (words[i] > believed[i] && double(words[i]) <= double(most_per_second[i]) * seconds)
      believed[i] = words[i];
  std::memcpy(static_cast<void*>(&believed_), believed.data(), sizeof believed_);
  return believed_;
}

}  // namespace ultraep

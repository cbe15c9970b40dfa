#include "daemon/planner/baselines/ultraep_relay.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace ultraep::planner {
namespace {

constexpr uint32_t kMinReplicas = 4, kMostRelays = 8, kMinGain = 2;

uint32_t RelayCount(uint32_t n) {
  if (n < kMinReplicas) return 0;
  const uint32_t k = std::min({uint32_t(std::sqrt(double(n))), kMostRelays, n - 1});
  const uint32_t longest = std::max(k, (n - k + k - 1) / k);
  return n >= longest + kMinGain ? k : 0;
}

}  // namespace

std::vector<Multicast> UltraEpRelays(const PlanShape& shape, const std::vector<Piece>& pieces) {
  std::map<uint32_t, std::vector<uint32_t>> experts;  // -> pieces
  for (uint32_t i = 0; i < pieces.size(); ++i) experts[pieces[i].expert].push_back(i);
  std::vector<uint32_t> sends(shape.ranks, 0);
  std::vector<Multicast> first, second;
  for (auto& [expert, mine] : experts) {
    const uint32_t home = shape.home(expert), k = RelayCount(uint32_t(mine.size()));
    if (k == 0) {
      sends[home] += uint32_t(mine.size());
      first.push_back({home, 0, -1, mine});
      continue;
    }
    std::stable_sort(mine.begin(), mine.end(), [&](uint32_t a, uint32_t b) {
      return sends[pieces[a].rank] < sends[pieces[b].rank];
    });
    sends[home] += k;
    first.push_back({home, 0, -1, {mine.begin(), mine.begin() + k}});
    const size_t begin = second.size();
    for (uint32_t r = 0; r < k; ++r)
      second.push_back({pieces[mine[r]].rank, 1, int32_t(mine[r]), {}});
    for (uint32_t i = k; i < mine.size(); ++i) {
      auto relay = second.begin() + ptrdiff_t(begin) + (i - k);
      if (i >= 2 * k)
        relay = std::min_element(second.begin() + ptrdiff_t(begin), second.end(),
                                 [&](const Multicast& a, const Multicast& b) {
                                   return sends[a.sender] < sends[b.sender];
                                 });
      relay->pieces.push_back(mine[i]);
      ++sends[relay->sender];
    }
  }
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

}  // namespace ultraep::planner

// Least-loaded expert parallelism (LLEP, arXiv 2601.17111): where the peak is above 1.3 x mean,
// what an overloaded rank has above the mean goes in pieces to the least loaded ranks, none smaller
// than a GEMM is worth.
#include <algorithm>

#include "daemon/planner/baselines/baseline.h"
#include "daemon/planner/lower_bound.h"

namespace ultraep::planner {
namespace {

constexpr uint64_t kTriggerPercent = 130;
constexpr uint64_t kMinTokens = 1024;

}  // namespace

void SolveLeastLoadedSpill(const Problem& problem, Domain domain,
                           std::vector<Instance>* instances) {
  std::vector<Piece> pieces;
  const uint64_t mean = MeanBound(problem, domain);
  std::vector<uint64_t> tokens(problem.rank_tokens.begin() + domain.begin,
                               problem.rank_tokens.begin() + domain.end);
  std::vector<uint32_t> slots, order, last(domain.size(), kNone);
  for (uint32_t i = 0; i < domain.size(); ++i) {
    slots.push_back(problem.slots_of(domain.begin + i));
    order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&tokens](uint32_t a, uint32_t b) { return tokens[a] > tokens[b]; });
  const bool needed = problem.PeakOf(domain) * 100 > mean * kTriggerPercent;
  for (const uint32_t from : order) {
    const uint32_t* const experts = problem.experts_of(domain.begin + from);
    for (uint32_t i = 0; needed && i < problem.shape.experts_per_rank(); ++i) {
      uint64_t left = problem.expert_tokens[experts[i]];
      while (left > 0 && tokens[from] > mean) {
        uint32_t to = kNone;
        for (uint32_t r = 0; r < domain.size(); ++r)
          if (r != from && slots[r] > 0 && last[r] != experts[i] &&
              (to == kNone || tokens[r] < tokens[to]))
            to = r;
        if (to == kNone || tokens[to] >= mean) break;
        const uint64_t piece = std::min({left, tokens[from] - mean, mean - tokens[to]});
        if (piece < kMinTokens) break;
        pieces.push_back({experts[i], domain.begin + to, piece});
        tokens[from] -= piece;
        tokens[to] += piece;
        left -= piece;
        --slots[to];
        last[to] = experts[i];
      }
    }
  }
  AddInstances(problem, domain, pieces, instances);
}

}  // namespace ultraep::planner

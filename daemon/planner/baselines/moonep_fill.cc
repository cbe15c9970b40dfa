// MoonEP's exact fill (Kimi K3 report, section 5.2.1): a donor fills a receiver up to the mean, and
// when that takes it below the mean, it is a receiver in turn. Every rank ends at the mean, within
// a token, as long as slots last; each receiver has one donor.
#include <algorithm>

#include "daemon/planner/baselines/baseline.h"
#include "daemon/planner/lower_bound.h"

namespace ultraep::planner {
namespace {

struct Rank {
  uint64_t tokens, limit;
  uint32_t next;  // expert it gives from, in order of weight
  uint64_t left;  // tokens of that expert still there
  uint32_t slots;
};

// Largest difference between tokens and limit, above it for donors, below it for receivers. Which
// donor serves which receiver is left open by the description.
uint32_t Furthest(const std::vector<Rank>& ranks, bool above) {
  uint32_t best = kNone;
  uint64_t most = 0;
  for (uint32_t i = 0; i < ranks.size(); ++i) {
    const Rank& r = ranks[i];
    if (above ? r.tokens <= r.limit : r.tokens >= r.limit || r.slots == 0) continue;
    const uint64_t difference = above ? r.tokens - r.limit : r.limit - r.tokens;
    if (difference > most) {
      most = difference;
      best = i;
    }
  }
  return best;
}

}  // namespace

void SolveMoonEpFill(const Problem& problem, Domain domain, std::vector<Instance>* instances) {
  Target target;
  target.Set(problem, domain, MeanBound(problem, domain), true);
  std::vector<Rank> ranks;
  for (uint32_t r = domain.begin; r < domain.end; ++r)
    ranks.push_back({problem.rank_tokens[r], target.limit[r], 0,
                     problem.expert_tokens[problem.experts_of(r)[0]], problem.slots_of(r)});
  std::vector<Piece> pieces;
  for (;;) {
    const uint32_t from = Furthest(ranks, true), to = Furthest(ranks, false);
    if (from == kNone || to == kNone) break;
    Rank& donor = ranks[from];
    Rank& receiver = ranks[to];
    while (receiver.tokens < receiver.limit && receiver.slots > 0) {
      while (donor.left == 0 && donor.next + 1 < problem.shape.experts_per_rank())
        donor.left = problem.expert_tokens[problem.experts_of(domain.begin + from)[++donor.next]];
      const uint64_t piece = std::min(donor.left, receiver.limit - receiver.tokens);
      if (piece == 0) break;  // what else it has are replicas
      pieces.push_back(
          {problem.experts_of(domain.begin + from)[donor.next], domain.begin + to, piece});
      donor.left -= piece;
      donor.tokens -= piece;
      receiver.tokens += piece;
      --receiver.slots;
    }
    if (donor.left == 0 && donor.next + 1 == problem.shape.experts_per_rank() &&
        donor.tokens > donor.limit)
      donor.limit = donor.tokens;  // no more to give
  }
  AddInstances(problem, domain, pieces, instances);
}

}  // namespace ultraep::planner

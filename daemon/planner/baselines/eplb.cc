// EPLB (DeepSeek's expert-parallelism load balancer), which plans from load statistics; here it
// gets the exact load of the step, so what is left of its imbalance is its even split and its
// packing.
#include <algorithm>
#include <numeric>

#include "daemon/planner/baselines/baseline.h"
#include "protocol/split.h"

namespace ultraep::planner {
namespace {

struct Copy {
  uint32_t expert;
  uint64_t tokens;
};

// copies[e - first]: one each, then one more for the expert with most tokens per copy, again and
// again.
std::vector<uint32_t> CountCopies(const Problem& problem, Domain domain, uint32_t extra,
                                  uint32_t most) {
  const uint32_t first = problem.first_expert(domain.begin);
  std::vector<uint32_t> copies(problem.first_expert(domain.end) - first, 1);
  for (uint32_t i = 0; i < extra; ++i) {
    uint32_t best = kNone;
    for (uint32_t e = 0; e < copies.size(); ++e) {
      if (copies[e] >= most) continue;
      if (best == kNone || uint128{problem.expert_tokens[first + e]} * copies[best] >
                               uint128{problem.expert_tokens[first + best]} * copies[e])
        best = e;
    }
    if (best == kNone) break;
    ++copies[best];
  }
  return copies;
}

uint32_t SlotsOf(const Problem& problem, Domain domain) {
  uint32_t slots = 0;
  for (uint32_t r = domain.begin; r < domain.end; ++r) slots += problem.slots_of(r);
  return slots;
}

void HeaviestFirst(std::vector<Copy>* copies) {
  std::stable_sort(copies->begin(), copies->end(),
                   [](const Copy& a, const Copy& b) { return a.tokens > b.tokens; });
}

// Share number `copy` of `tokens` split evenly.
uint64_t EvenShare(uint64_t tokens, uint32_t copies, uint32_t copy) {
  return tokens / copies + (copy < tokens % copies);
}

}  // namespace

// Each copy goes to the rank with the fewest tokens that has a place left. As in the original, two
// copies of an expert may meet on a rank; they are one instance then.
void SolveEplbGlobal(const Problem& problem, Domain domain, std::vector<Instance>* instances) {
  const uint32_t first = problem.first_expert(domain.begin);
  const std::vector<uint32_t> counts =
      CountCopies(problem, domain, SlotsOf(problem, domain), UINT32_MAX);
  std::vector<Copy> copies;
  for (uint32_t e = 0; e < counts.size(); ++e)
    for (uint32_t c = 0; c < counts[e]; ++c)
      copies.push_back({first + e, EvenShare(problem.expert_tokens[first + e], counts[e], c)});
  HeaviestFirst(&copies);
  std::vector<uint64_t> tokens(domain.size(), 0);
  std::vector<std::vector<Instance>> ranks(domain.size());
  std::vector<uint32_t> places(domain.size());
  for (uint32_t i = 0; i < domain.size(); ++i)
    places[i] = problem.shape.experts_per_rank() + problem.slots_of(domain.begin + i);
  for (const Copy& copy : copies) {
    uint32_t best = kNone;
    for (uint32_t i = 0; i < domain.size(); ++i)
      if (places[i] > 0 && (best == kNone || tokens[i] < tokens[best])) best = i;
    --places[best];
    if (copy.tokens == 0) continue;
    tokens[best] += copy.tokens;
    auto same = std::find_if(ranks[best].begin(), ranks[best].end(),
                             [&copy](const Instance& i) { return i.expert == copy.expert; });
    if (same != ranks[best].end())
      same->tokens += copy.tokens;
    else
      ranks[best].push_back({copy.expert, domain.begin + best, copy.tokens});
  }
  for (const std::vector<Instance>& rank : ranks)
    instances->insert(instances->end(), rank.begin(), rank.end());
}

// Mains stay at home; the other copies fill the slots, heaviest first, on the rank with the fewest
// tokens. A copy that fits nowhere is left out, and its expert split over one less.
void SolveEplbFixed(const Problem& problem, Domain domain, std::vector<Instance>* instances) {
  const uint32_t first = problem.first_expert(domain.begin);
  const std::vector<uint32_t> counts =
      CountCopies(problem, domain, SlotsOf(problem, domain), domain.size());
  std::vector<uint64_t> tokens(domain.size(), 0);
  std::vector<Copy> copies;
  for (uint32_t e = 0; e < counts.size(); ++e) {
    const uint64_t load = problem.expert_tokens[first + e];
    tokens[problem.shape.home(first + e) - domain.begin] += EvenShare(load, counts[e], 0);
    for (uint32_t c = 1; c < counts[e]; ++c)
      copies.push_back({first + e, EvenShare(load, counts[e], c)});
  }
  HeaviestFirst(&copies);
  std::vector<std::vector<uint32_t>> hosts(counts.size());
  std::vector<uint32_t> places(domain.size());
  for (uint32_t e = 0; e < counts.size(); ++e)
    hosts[e].push_back(problem.shape.home(first + e) - domain.begin);
  for (uint32_t i = 0; i < domain.size(); ++i) places[i] = problem.slots_of(domain.begin + i);
  for (const Copy& copy : copies) {
    std::vector<uint32_t>& taken = hosts[copy.expert - first];
    uint32_t best = kNone;
    for (uint32_t i = 0; i < domain.size(); ++i) {
      if (places[i] == 0 || std::find(taken.begin(), taken.end(), i) != taken.end()) continue;
      if (best == kNone || tokens[i] < tokens[best]) best = i;
    }
    if (best == kNone) continue;
    --places[best];
    tokens[best] += copy.tokens;
    taken.push_back(best);
  }
  for (uint32_t e = 0; e < counts.size(); ++e) {
    const auto split = uint32_t(hosts[e].size());
    for (uint32_t c = 0; c < split; ++c)
      if (const uint64_t share = EvenShare(problem.expert_tokens[first + e], split, c))
        instances->push_back({first + e, domain.begin + hosts[e][c], share});
  }
}

}  // namespace ultraep::planner

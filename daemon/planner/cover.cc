#include "daemon/planner/cover.h"

#include <algorithm>

namespace ultraep::planner {
namespace {

// 256 * exp(0.35 * z) for z = the 16 mid-quantiles of the normal distribution.
constexpr uint32_t kNoise[16] = {133, 161, 180, 195, 209, 222, 236, 249,
                                 263, 278, 295, 314, 336, 365, 406, 491};

uint32_t NoiseOf(uint32_t variant, uint32_t rank) {
  if (variant == 0) return 256;
  uint32_t x = (variant << 16) + rank + 1;  // murmur3 finaliser
  x = (x ^ (x >> 16)) * 0x85ebca6bU;
  x = (x ^ (x >> 13)) * 0xc2b2ae35U;
  return kNoise[(x ^ (x >> 16)) & 15];
}

}  // namespace

void Cover::Reserve(const PlanShape& shape) {
  exporters_.reserve(shape.ranks);
  receivers_.reserve(shape.ranks);
}

void Cover::Start(const Problem& problem, Domain domain, const CoverOptions& options) {
  exporters_.clear();
  receivers_.clear();
  for (uint32_t r = domain.begin; r < domain.end; ++r) {
    const uint64_t tokens = problem.rank_tokens[r];
    const uint32_t noise = NoiseOf(options.variant, r - domain.begin);
    if (tokens > options.threshold)
      exporters_.push_back({tokens - options.threshold, r, noise, 0,
                            problem.expert_tokens[problem.experts_of(r)[0]]});
    else if (tokens < options.threshold && options.slots > 0)
      receivers_.push_back({options.threshold - tokens, r, noise, options.slots});
  }
}

// Products stay below 2^63: tokens below 2^53, noise below 2^10. Ties go to the lowest rank, the
// lists are not in rank order.
uint32_t Cover::LargestNeed() const {
  uint32_t best = 0;
  uint64_t best_key = 0;
  for (uint32_t i = 0; i < exporters_.size(); ++i) {
    const uint64_t key = exporters_[i].need * exporters_[i].noise;
    if (key > best_key || (key == best_key && exporters_[i].rank < exporters_[best].rank)) {
      best = i;
      best_key = key;
    }
  }
  return best;
}

uint32_t Cover::BestReceiver(uint64_t want, bool closes) const {
  uint32_t largest = kNone, tightest = kNone;
  uint64_t largest_key = 0, tightest_room = UINT64_MAX;
  for (uint32_t i = 0; i < receivers_.size(); ++i) {
    const Receiver& r = receivers_[i];
    const uint64_t key = r.room * r.noise;
    if (key > largest_key || (key == largest_key && r.rank < receivers_[largest].rank)) {
      largest = i;
      largest_key = key;
    }
    if (r.room < want || r.room > tightest_room) continue;
    if (r.room < tightest_room || r.rank < receivers_[tightest].rank) {
      tightest = i;
      tightest_room = r.room;
    }
  }
  return closes && tightest != kNone ? tightest : largest;
}

bool Cover::Step(const Problem& problem, const CoverOptions& options, uint32_t s,
                 std::vector<Piece>* pieces) {
  Exporter& from = exporters_[s];
  const uint32_t* const experts = problem.experts_of(from.rank);
  while (from.left == 0) {
    if (++from.next == problem.shape.experts_per_rank()) return false;
    from.left = problem.expert_tokens[experts[from.next]];
  }
  if (receivers_.empty()) return false;

  uint64_t tokens = std::min(from.need, from.left);
  const uint32_t t = BestReceiver(tokens, tokens == from.need);
  Receiver& to = receivers_[t];
  tokens = std::min(tokens, to.room);
  if (options.chain && to.slots == 1 && to.room > tokens) tokens = std::min(from.left, to.room);
  pieces->push_back({experts[from.next], to.rank, tokens});

  from.left -= tokens;
  to.room -= tokens;
  --to.slots;
  const Exporter exporter = from;
  if (to.slots == 0 || to.room == 0) {
    receivers_[t] = receivers_.back();
    receivers_.pop_back();
  }
  if (tokens >= exporter.need) {
    exporters_[s] = exporters_.back();
    exporters_.pop_back();
    // It imports other ranks' experts only, so no rank ever gets a second copy.
    if (tokens > exporter.need)
      receivers_.push_back({tokens - exporter.need, exporter.rank, exporter.noise, options.slots});
  } else {
    from.need -= tokens;
  }
  return true;
}

uint64_t Cover::Run(const Problem& problem, Domain domain, const CoverOptions& options,
                    std::vector<Piece>* pieces) {
  pieces->clear();
  Start(problem, domain, options);
  uint64_t open = 0;
  while (!exporters_.empty()) {
    if (options.fewer_than && pieces->size() + 1 >= options.fewer_than) return UINT64_MAX;
    work_->spent += exporters_.size() + receivers_.size();
    const uint32_t s = LargestNeed();
    if (Step(problem, options, s, pieces)) continue;
    // The others go on: the pieces are where the repair starts from.
    open += exporters_[s].need;
    exporters_[s] = exporters_.back();
    exporters_.pop_back();
  }
  return open;
}

}  // namespace ultraep::planner

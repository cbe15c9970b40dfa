#include "daemon/planner/baselines/ultraep_heuristic.h"

#include <algorithm>

#include "daemon/planner/lower_bound.h"

namespace ultraep::planner {
namespace {

constexpr uint64_t kMinTokens = 1024;  // of a piece, on the slow path
constexpr uint64_t kKeptAtHome = 1;
constexpr uint32_t kFastTries = 3;
constexpr uint32_t kProbes = 4;

uint64_t DivideUp(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

}  // namespace

void UltraEpHeuristic::Reserve(const PlanShape& shape) {
  sources_.reserve(shape.ranks);
  receivers_.reserve(shape.ranks);
  tokens_.reserve(shape.ranks);
}

void UltraEpHeuristic::Start(uint64_t threshold) {
  pieces_->clear();
  slack_ = 0;
  for (uint32_t r = domain_.begin; r < domain_.end; ++r) {
    const uint64_t limit = problem_->Limit(r, threshold), tokens = problem_->rank_tokens[r];
    Receiver& receiver = receivers_[r - domain_.begin];
    receiver = {tokens < limit ? limit - tokens : 0, problem_->slots_of(r), kNone};
    if (receiver.slots > 0) slack_ += receiver.slack;
  }
}

uint32_t UltraEpHeuristic::LargestSlack(uint32_t expert, uint32_t* eligible) const {
  uint32_t best = kNone;
  *eligible = 0;
  for (uint32_t i = 0; i < receivers_.size(); ++i) {
    const Receiver& r = receivers_[i];
    if (r.slack == 0 || r.slots == 0 || r.last == expert) continue;
    ++*eligible;
    if (best == kNone || r.slack > receivers_[best].slack) best = i;
  }
  return best;
}

bool UltraEpHeuristic::Export(uint32_t rank, uint64_t need, bool dynamic_floor) {
  const uint32_t* const experts = problem_->experts_of(rank);
  for (uint32_t i = 0; i < problem_->shape.experts_per_rank() && need > 0; ++i) {
    const uint64_t tokens = problem_->expert_tokens[experts[i]];
    if (tokens <= kKeptAtHome) return false;  // the lighter ones have no more
    uint64_t available = tokens - kKeptAtHome;
    while (need > 0 && available > 0) {
      uint32_t eligible = 0;
      // The largest slack makes the largest piece: if that is below the floor, all are.
      const uint32_t best = LargestSlack(experts[i], &eligible);
      if (best == kNone) break;
      Receiver& to = receivers_[best];
      const uint64_t piece = std::min({need, available, to.slack});
      if (piece < (dynamic_floor ? DivideUp(need, eligible) : kMinTokens)) break;
      pieces_->push_back({experts[i], domain_.begin + best, piece});
      to.slack -= piece;
      slack_ -= piece;
      if (--to.slots == 0) slack_ -= to.slack;
      to.last = experts[i];
      need -= piece;
      available -= piece;
    }
  }
  return need == 0;
}

bool UltraEpHeuristic::Try(uint64_t threshold, bool dynamic_floor) {
  Start(threshold);
  for (const uint32_t rank : sources_) {
    const uint64_t limit = problem_->Limit(rank, threshold);
    const uint64_t tokens = problem_->rank_tokens[rank];
    if (tokens <= limit) continue;
    if (tokens - limit > slack_ || !Export(rank, tokens - limit, dynamic_floor)) return false;
  }
  return true;
}

// Takes it that a threshold above one that works does so too; `high` does. The plan of the result
// is not there yet.
uint64_t UltraEpHeuristic::SmallestThreshold(uint64_t low, uint64_t high) {
  while (low < high) {
    const uint64_t range = high - low;
    uint64_t failed = low, worked = high;
    bool any_failed = false;
    for (uint32_t i = 0; i < kProbes; ++i) {
      const uint64_t probe = range <= kProbes ? low + i : low + range * (i + 1) / (kProbes + 1);
      if (probe >= high) break;
      if (Try(probe, false)) {
        worked = probe;
        break;
      }
      failed = probe;
      any_failed = true;
    }
    low = any_failed ? failed + 1 : low;
    if (worked == high && !any_failed) break;
    high = worked;
  }
  return high;
}

uint64_t UltraEpHeuristic::Peak() {
  tokens_.assign(problem_->rank_tokens.begin() + domain_.begin,
                 problem_->rank_tokens.begin() + domain_.end);
  for (const Piece& piece : *pieces_) {
    tokens_[problem_->shape.home(piece.expert) - domain_.begin] -= piece.tokens;
    tokens_[piece.rank - domain_.begin] += piece.tokens;
  }
  uint64_t peak = 0;
  for (uint32_t r = domain_.begin; r < domain_.end; ++r)
    peak = std::max(peak, problem_->Level(r, tokens_[r - domain_.begin]));
  return peak;
}

uint64_t UltraEpHeuristic::Run(const Problem& problem, Domain domain, std::vector<Piece>* pieces) {
  problem_ = &problem;
  domain_ = domain;
  pieces_ = pieces;
  pieces->clear();
  receivers_.resize(domain.size());
  sources_.clear();
  for (uint32_t r = domain.begin; r < domain.end; ++r) sources_.push_back(r);
  std::sort(sources_.begin(), sources_.end(), [&problem](uint32_t a, uint32_t b) {
    const uint64_t x = problem.rank_tokens[a], y = problem.rank_tokens[b];
    return x != y ? x > y : a < b;
  });
  const uint64_t low = MeanBound(problem, domain);
  const uint64_t high = std::max(problem.PeakOf(domain), low);
  uint64_t threshold = low + DivideUp(low, 100);
  for (uint32_t i = 0; i < kFastTries; ++i) {
    if (Try(threshold, true)) return Peak();
    threshold += std::max<uint64_t>(1, DivideUp(high, 100));
  }
  if (!Try(low, false)) Try(SmallestThreshold(low + 1, high), false);
  return Peak();
}

}  // namespace ultraep::planner

#include "daemon/planner/search.h"

#include <algorithm>

#include "protocol/split.h"

namespace ultraep::planner {
namespace {

// Starts of the repair while the smallest reachable level is searched for: each costs several
// covers, and the first ones find nearly everything.
constexpr uint32_t kSearchStarts = 2;
constexpr uint32_t kSearchSteps = 10;

// Levels that differ by less than this part of the bound count as equal.
constexpr uint32_t kClose = 4096;

// Tried where the repair of all covers fails, as far as the work limit allows.
constexpr uint32_t kKicks = 48;
constexpr uint32_t kRounds = 8;

}  // namespace

uint64_t Search::Allowed(uint64_t bound, uint32_t epsilon_ppm) {
  const uint128 extra = uint128{bound} * std::min(epsilon_ppm, 1'000'000u) / 1'000'000;
  return bound + uint64_t(extra);
}

uint32_t Search::variants() const {
  return std::clamp<uint32_t>(options_->variants, 1, kMaxVariants);
}

void Search::Reserve(const PlanShape& shape) {
  cover_.Reserve(shape);
  repair_.Reserve(shape);
  lower_bound_.Reserve(shape);
  heuristic_.Reserve(shape);
  const uint64_t slots = uint64_t{shape.ranks} * shape.slots;
  for (std::vector<Piece>* v : {&pieces_, &start_, &best_}) v->reserve(slots);
  target_.Reserve(shape);
}

void Search::Start(Problem* problem, const PlanOptions& options, uint32_t searches) {
  problem_ = problem;
  options_ = &options;
  work_.spent = 0;
  share_ = options.work_limit / std::max(searches, 1u);
}

// Every run below is towards this level.
void Search::Aim(uint64_t level) {
  target_.Set(*problem_, domain_, level, exact_);
  cover_.Prepare(problem_, domain_, target_);
}

// The best cover over the variants, in `best_`; false when none keeps the limits.
bool Search::CoverWith(uint32_t slots, uint32_t tile_tokens) {
  CoverCost cost;
  auto run = [&](uint32_t variant) {
    if (!cover_.Run({variant, slots, tile_tokens}, &cost, &pieces_)) return;
    best_.swap(pieces_);
  };
  for (uint32_t v = 0; v < variants() && cost > cover_.bound(); ++v)
    if (v == 0 || !work_.over()) run(v);
  if (cost > cover_.bound()) run(kPublishedOrder);
  return cost < CoverCost{};
}

// One replica per rank first: a rank that receives one expert receives it in one expert-time.
bool Search::CoverAll() {
  const uint32_t slots = problem_->shape.slots, tile = options_->tile_tokens;
  if (tile > 1 && (CoverWith(1, tile) || (slots > 1 && CoverWith(slots, tile)))) return true;
  return CoverWith(1, 0) || (slots > 1 && CoverWith(slots, 0));
}

// Keeps the repaired state in `best_` if its peak is below the one reached so far.
bool Search::Keep(bool done) {
  if (done) repair_.Prune();
  const uint64_t peak = repair_.Peak();
  if (peak < reached_) {
    reached_ = peak;
    repair_.Store(&best_);
  }
  return done;
}

// Repairs incomplete covers; true when the target is reached.
bool Search::RepairAll(uint32_t starts) {
  for (uint32_t v = 0; v < starts && (v == 0 || !work_.over()); ++v) {
    cover_.RunToTheEnd({v, problem_->shape.slots, 0}, &pieces_);
    repair_.Load(*problem_, domain_, pieces_);
    if (Keep(repair_.Reach(target_))) return true;
  }
  return false;
}

// Between an unreachable level and the best so far. Whether a level is found reachable is not
// monotone, so this ends with a good one, not the best one.
void Search::Bisect(uint64_t level) {
  uint64_t low = level;
  const uint32_t starts = std::min(variants(), kSearchStarts);
  for (uint32_t i = 0; i < kSearchSteps && reached_ - low > bound_ / kClose + 1 && !work_.over();
       ++i) {
    const uint64_t middle = low + (reached_ - low) / 2;
    Aim(middle);
    if (CoverWith(problem_->shape.slots, 0)) {
      repair_.Load(*problem_, domain_, best_);
      reached_ = repair_.Peak();
      continue;
    }
    if (!RepairAll(starts)) low = middle;
    low = std::min(low, reached_);
  }
}

// Kicks `start_` about until the level is reached, or kKicks of them got no nearer. True when a
// better plan than before came out of it.
bool Search::Kick(uint64_t level) {
  Aim(level);
  const uint64_t before = reached_;
  uint64_t least = UINT64_MAX;
  for (uint32_t i = 0; i < kKicks && !work_.over(); ++i) {
    repair_.Load(*problem_, domain_, start_);
    repair_.Kick(kick_++);
    if (i % 4 == 3) repair_.Kick(kick_++);  // where no single change helps, two may
    if (Keep(repair_.Reach(target_)) || reached_ < before) break;
    const uint64_t excess = repair_.Excess();
    if (excess > least) continue;
    least = excess;
    repair_.Store(&start_);
  }
  return reached_ < before;
}

// First from the best plan at the wanted level, then at ever easier ones; then all over again from
// covers, as long as the work limit allows.
void Search::KickAll(uint64_t level) {
  kick_ = 0;
  for (uint32_t round = 0; round < kRounds && reached_ > level && !work_.over(); ++round) {
    uint64_t low = level, aim = low + (reached_ - low) / 2;
    while (reached_ > aim && !work_.over()) {
      if (round == 0) {
        start_ = best_;
      } else {
        Aim(aim);
        cover_.RunToTheEnd({round, problem_->shape.slots, 0}, &start_);
      }
      if (!Kick(aim)) low = aim;
      aim = low + (reached_ - low) / 2;
      if (reached_ - low <= bound_ / kClose + 1) break;
    }
  }
}

// No cover reaches the level.
void Search::SolveHard(uint64_t level) {
  const uint64_t begun = work_.spent;
  best_.clear();
  work_.limit = begun + share_ / 2;  // the other half is for the steps after the first
  if (RepairAll(variants())) return;
  work_.limit = begun + share_;
  Bisect(level);
  KickAll(level);
  if (reached_ > level) TakeHeuristic();
}

// So that the plan is never above the published one's.
void Search::TakeHeuristic() {
  const uint64_t peak = heuristic_.Run(*problem_, domain_, &pieces_);
  if (peak >= reached_) return;
  reached_ = peak;
  best_.swap(pieces_);
}

void Search::Solve(Domain domain, uint32_t epsilon_ppm, uint64_t* bound,
                   std::vector<Piece>* chosen) {
  domain_ = domain;
  exact_ = epsilon_ppm == 0;
  work_.limit = work_.spent + share_;
  bound_ = *bound;
  reached_ = problem_->PeakOf(domain);
  const uint64_t level = Allowed(bound_, epsilon_ppm);
  if (reached_ <= level && !exact_) return;
  Aim(level);
  if (!CoverAll()) {
    // The mean may be out of reach for any plan: no use in searching below what is possible.
    problem_->SortExperts(domain);
    *bound = bound_ = lower_bound_.Find(*problem_, domain, bound_);
    const uint64_t possible = Allowed(bound_, epsilon_ppm);
    if (reached_ <= possible) return;
    Aim(possible);
    if (possible == level || !CoverAll()) SolveHard(possible);
  }
  chosen->insert(chosen->end(), best_.begin(), best_.end());
}

}  // namespace ultraep::planner

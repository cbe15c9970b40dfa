#include "daemon/planner/solve_plan.h"

#include <algorithm>
#include <vector>

#include "daemon/planner/cover.h"
#include "daemon/planner/lower_bound.h"
#include "daemon/planner/problem.h"
#include "daemon/planner/repair.h"
#include "protocol/split.h"

namespace ultraep {

using planner::CoverOptions;
using planner::Domain;
using planner::Piece;

namespace {

// Starts of the repair while the smallest reachable threshold is searched for: each costs several
// covers, and the first ones find nearly everything.
constexpr uint32_t kSearchStarts = 2;
constexpr uint32_t kSearchSteps = 10;

// Peaks that differ by less than this part of the bound count as equal.
constexpr uint32_t kClose = 4096;

// Tried where the repair of all covers fails, as far as the work limit allows.
constexpr uint32_t kKicks = 96;

uint64_t Allowed(uint64_t bound, uint32_t epsilon_ppm) {
  const uint128 extra = uint128{bound} * std::min(epsilon_ppm, 1'000'000u) / 1'000'000;
  return bound + uint64_t(extra);
}

}  // namespace

struct PlanWorkspace::Impl {
  Impl() = default;
  Impl(const Impl&) = delete;  // members point to `work`

  planner::Problem problem;
  planner::Work work;
  planner::Cover cover{&work};
  planner::Repair repair{&work};
  planner::LowerBound lower_bound;
  std::vector<Piece> pieces, start, best, chosen;
  std::vector<uint32_t> used_slots;
  PlanOptions options;
  uint64_t bound = 0;

  uint32_t variants() const {
    return std::clamp<uint32_t>(options.variants, 1, planner::kMaxVariants);
  }
  bool CoverWith(Domain domain, uint64_t threshold, uint32_t slots, bool chain);
  bool CoverAll(Domain domain, uint64_t threshold);
  bool Keep(bool done, uint64_t threshold, uint64_t* reached);
  bool RepairAll(Domain domain, uint64_t threshold, uint32_t starts, uint64_t* reached);
  void KickAll(Domain domain, uint64_t threshold, uint64_t reached);
  uint64_t Search(Domain domain, uint64_t threshold, uint64_t reached);
  void SolveDomain(Domain domain);
  void Reserve(const PlanShape& shape);
  void Publish(Plan* plan);
};

// Fewest pieces over the variants, in `best`; false when none reaches the threshold.
bool PlanWorkspace::Impl::CoverWith(Domain domain, uint64_t threshold, uint32_t slots, bool chain) {
  bool found = false;
  for (uint32_t v = 0; v < variants() && (v == 0 || !work.over()); ++v) {
    const auto fewer_than = found ? uint32_t(best.size()) : 0;
    const CoverOptions cover_options{threshold, v, slots, chain, fewer_than};
    if (cover.Run(problem, domain, cover_options, &pieces) > 0) continue;
    best.swap(pieces);
    found = true;
    if (best.size() <= 1) break;
  }
  return found;
}

// One replica per rank first: a rank that receives one expert receives it in one expert-time.
bool PlanWorkspace::Impl::CoverAll(Domain domain, uint64_t threshold) {
  const uint32_t slots = problem.shape.slots;
  if (CoverWith(domain, threshold, 1, false)) return true;
  if (slots > 1 && CoverWith(domain, threshold, slots, false)) return true;
  return CoverWith(domain, threshold, slots, true);
}

// Keeps the repaired state in `best` if its peak is below `reached`, which is lowered to it.
bool PlanWorkspace::Impl::Keep(bool done, uint64_t threshold, uint64_t* reached) {
  if (done) repair.Prune(threshold);
  const uint64_t peak = repair.Peak();
  if (peak < *reached) {
    *reached = peak;
    repair.Store(&best);
  }
  return done;
}

// Repairs incomplete covers; true when the threshold is
// reached; `best` and `reached` as in Keep.
bool PlanWorkspace::Impl::RepairAll(Domain domain, uint64_t threshold, uint32_t starts,
                                    uint64_t* reached) {
  for (uint32_t v = 0; v < starts && (v == 0 || !work.over()); ++v) {
    for (const bool chain : {false, true}) {
      cover.Run(problem, domain, {threshold, v, problem.shape.slots, chain, 0}, &pieces);
      repair.Load(problem, domain, pieces);
      if (Keep(repair.Reach(threshold), threshold, reached)) return true;
    }
  }
  return false;
}

// Kicks the state in `best` about, first at the wanted threshold, then at ever easier ones, as long
// as the work limit allows.
void PlanWorkspace::Impl::KickAll(Domain domain, uint64_t threshold, uint64_t reached) {
  uint64_t aim = threshold, low = threshold;
  uint32_t kick = 0;
  while (reached > aim && !work.over()) {
    uint64_t least = UINT64_MAX;
    start = best;
    const uint64_t before = reached;
    for (uint32_t i = 0; i < kKicks && reached == before && !work.over(); ++i) {
      repair.Load(problem, domain, start);
      repair.Kick(kick++);
      if (Keep(repair.Reach(aim), aim, &reached)) break;
      const uint64_t excess = repair.Excess(aim);
      if (excess > least) continue;
      least = excess;
      repair.Store(&start);
    }
    if (reached == before) low = aim;
    aim = low + (reached - low) / 2;
    if (reached - low <= bound / kClose + 1) return;
  }
}

// Bisects between an unreachable threshold and the best peak so far, which is in `best`. Whether a
// threshold is found reachable is not monotone, so this ends with a good peak, not the best one.
uint64_t PlanWorkspace::Impl::Search(Domain domain, uint64_t threshold, uint64_t reached) {
  uint64_t low = threshold;
  const uint32_t starts = std::min(variants(), kSearchStarts);
  for (uint32_t i = 0; i < kSearchSteps && reached - low > bound / kClose + 1 && !work.over();
       ++i) {
    const uint64_t middle = low + (reached - low) / 2;
    if (CoverWith(domain, middle, problem.shape.slots, true)) {
      repair.Load(problem, domain, best);
      reached = repair.Peak();
      continue;
    }
    if (!RepairAll(domain, middle, starts, &reached)) low = middle;
    low = std::min(low, reached);
  }
  return reached;
}

// Appends the domain's pieces to `chosen`.
void PlanWorkspace::Impl::SolveDomain(Domain domain) {
  const uint64_t peak = problem.PeakOf(domain);
  uint64_t threshold = Allowed(bound, options.epsilon_ppm);
  if (peak <= threshold) return;
  best.clear();
  const uint64_t share = options.work_limit / problem.domains();
  const uint64_t limit = work.spent + share;
  work.limit = work.spent + share / 2;  // the other half is for Search
  if (!CoverAll(domain, threshold)) {
    // The mean may be out of reach for any plan: no use in searching below what is possible.
    const uint64_t stronger = lower_bound.Find(problem, domain, bound);
    if (stronger > bound) {
      bound = stronger;
      threshold = Allowed(bound, options.epsilon_ppm);
      if (peak <= threshold) return;
    }
    uint64_t reached = peak;
    best.clear();
    if (!RepairAll(domain, threshold, variants(), &reached)) {
      work.limit = limit;
      reached = Search(domain, threshold, reached);
      KickAll(domain, threshold, reached);
    }
  }
  chosen.insert(chosen.end(), best.begin(), best.end());
}

// The largest sizes of the shape, so that later loads of it allocate nothing, also when this one
// needs no balancing.
void PlanWorkspace::Impl::Reserve(const PlanShape& shape) {
  problem.heaviest.reserve(shape.experts);
  cover.Reserve(shape);
  repair.Reserve(shape);
  lower_bound.Reserve(shape);
  const uint64_t slots = uint64_t{shape.ranks} * shape.slots;
  for (std::vector<Piece>* v : {&pieces, &start, &best, &chosen}) v->reserve(slots);
  used_slots.reserve(shape.ranks);
}

// Most tokens first: their grouped GEMM is the longest, so their weights should arrive first.
void PlanWorkspace::Impl::Publish(Plan* plan) {
  std::sort(chosen.begin(), chosen.end(), [](const Piece& a, const Piece& b) {
    if (a.tokens != b.tokens) return a.tokens > b.tokens;
    return a.expert != b.expert ? a.expert < b.expert : a.rank < b.rank;
  });
  const PlanShape& shape = problem.shape;
  used_slots.assign(shape.ranks, 0);
  for (const Piece& piece : chosen) {
    Replica replica;
    replica.expert = piece.expert;
    replica.rank = uint16_t(piece.rank);
    replica.slot = uint16_t(used_slots[piece.rank]++);
    replica.tokens = piece.tokens;
    plan->replicas.push_back(replica);
    problem.rank_tokens[shape.home(piece.expert)] -= piece.tokens;
    problem.rank_tokens[piece.rank] += piece.tokens;
  }
  plan->certificate.peak =
      *std::max_element(problem.rank_tokens.begin(), problem.rank_tokens.end());
}

PlanWorkspace::PlanWorkspace() : impl_(std::make_unique<Impl>()) {}
PlanWorkspace::~PlanWorkspace() = default;
PlanWorkspace::PlanWorkspace(PlanWorkspace&&) noexcept = default;
PlanWorkspace& PlanWorkspace::operator=(PlanWorkspace&&) noexcept = default;

void SolvePlan(const PlanShape& shape, LoadView load, const PlanOptions& options,
               PlanWorkspace* workspace, Plan* plan) {
  PlanWorkspace::Impl& w = *workspace->impl_;
  w.options = options;
  w.problem.Load(shape, load);
  w.Reserve(shape);
  w.chosen.clear();
  plan->replicas.clear();
  plan->replicas.reserve(uint64_t{shape.ranks} * shape.slots);
  w.bound = 0;
  w.work.spent = 0;
  for (uint32_t d = 0; d < w.problem.domains(); ++d)
    w.bound = std::max(w.bound, planner::MeanBound(w.problem, w.problem.domain(d)));
  plan->certificate = {w.problem.total, w.problem.peak, w.problem.peak, w.bound};
  if (w.problem.peak <= Allowed(w.bound, options.epsilon_ppm)) return;

  w.problem.SortExperts();
  for (uint32_t d = 0; d < w.problem.domains(); ++d) w.SolveDomain(w.problem.domain(d));
  plan->certificate.lower_bound = w.bound;
  w.Publish(plan);
}

}  // namespace ultraep

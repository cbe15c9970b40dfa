#include "daemon/planner/repair.h"

#include <algorithm>

namespace ultraep::planner {
namespace {

// SplitMix64: fixed pseudo-random choices.
class Mixer {
 public:
  explicit Mixer(uint64_t seed) : state_(seed) {}

  uint32_t Below(uint32_t bound) {
    uint64_t x = state_ += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return uint32_t(((x ^ (x >> 31)) >> 32) * bound >> 32);
  }

 private:
  uint64_t state_;
};

}  // namespace

void Repair::Reserve(const PlanShape& shape) {
  const uint64_t slots = uint64_t{shape.ranks} * shape.slots;
  for (auto* v : {&slots_, &saved_slots_}) v->reserve(slots);
  for (auto* v : {&first_slot_, &saved_first_slot_}) v->reserve(shape.experts);
  for (auto* v : {&main_tokens_, &saved_main_tokens_, &expert_mark_}) v->reserve(shape.experts);
  for (auto* v : {&rank_tokens_, &saved_rank_tokens_, &rank_mark_}) v->reserve(shape.ranks);
  queue_.reserve(shape.ranks);
  steps_.reserve(shape.ranks);
  trials_.reserve(slots);
  useless_.reserve(slots);
}

void Repair::Load(const Problem& problem, Domain domain, const std::vector<Piece>& pieces) {
  problem_ = &problem;
  domain_ = domain;
  const PlanShape& shape = problem.shape;
  slots_.assign(uint64_t{domain.size()} * shape.slots, Slot{});
  first_slot_.assign(shape.experts, kNone);
  main_tokens_ = problem.expert_tokens;
  rank_tokens_ = problem.rank_tokens;
  useless_.resize(slots_.size());
  rank_mark_.resize(shape.ranks);
  expert_mark_.resize(shape.experts);
  steps_.resize(shape.ranks);
  work_->spent += slots_.size() + shape.experts;
  for (const Piece& piece : pieces) {
    uint32_t slot = (piece.rank - domain.begin) * shape.slots;
    while (slots_[slot].expert != kNone) ++slot;
    Insert(slot, piece.expert, piece.tokens);
  }
}

void Repair::Insert(uint32_t slot, uint32_t expert, uint64_t tokens) {
  slots_[slot] = {expert, first_slot_[expert], tokens};
  first_slot_[expert] = slot;
  main_tokens_[expert] -= tokens;
  rank_tokens_[problem_->shape.home(expert)] -= tokens;
  rank_tokens_[RankOf(slot)] += tokens;
}

void Repair::Remove(uint32_t slot) {
  const Slot gone = slots_[slot];
  uint32_t* link = &first_slot_[gone.expert];
  while (*link != slot) link = &slots_[*link].next;
  *link = gone.next;
  slots_[slot] = {};
  main_tokens_[gone.expert] += gone.tokens;
  rank_tokens_[problem_->shape.home(gone.expert)] += gone.tokens;
  rank_tokens_[RankOf(slot)] -= gone.tokens;
}

uint64_t Repair::Excess() const {
  uint64_t sum = 0;
  for (uint32_t r = domain_.begin; r < domain_.end; ++r)
    if (rank_tokens_[r] > limit_[r]) sum += rank_tokens_[r] - limit_[r];
  return sum;
}

uint64_t Repair::Peak() const {
  uint64_t peak = 0;
  for (uint32_t r = domain_.begin; r < domain_.end; ++r)
    peak = std::max(peak, problem_->Level(r, rank_tokens_[r]));
  return peak;
}

void Repair::Store(std::vector<Piece>* pieces) const {
  pieces->clear();
  for (uint32_t i = 0; i < slots_.size(); ++i)
    if (slots_[i].expert != kNone && slots_[i].tokens > 0)
      pieces->push_back({slots_[i].expert, RankOf(i), slots_[i].tokens});
}

void Repair::Save() {
  work_->spent += slots_.size() + rank_tokens_.size();
  saved_slots_ = slots_;
  saved_first_slot_ = first_slot_;
  saved_main_tokens_ = main_tokens_;
  saved_rank_tokens_ = rank_tokens_;
}

void Repair::Restore() {
  slots_.swap(saved_slots_);
  first_slot_.swap(saved_first_slot_);
  main_tokens_.swap(saved_main_tokens_);
  rank_tokens_.swap(saved_rank_tokens_);
}

// Flow ------------------------------------------------------------------------------------------

bool Repair::VisitInstance(uint32_t rank, const Step& step) {
  if (rank_mark_[rank] == search_) return false;
  rank_mark_[rank] = search_;
  steps_[rank] = step;
  if (rank_tokens_[rank] < limit_[rank]) return true;
  queue_.push_back(rank);
  return false;
}

// All other instances of an expert are one step away from any instance that has tokens. Returns the
// first rank with room, or kNone.
uint32_t Repair::VisitExpert(uint32_t expert, uint32_t rank, uint32_t from_slot) {
  expert_mark_[expert] = search_;
  const uint32_t home = problem_->shape.home(expert);
  if (VisitInstance(home, {rank, expert, from_slot, kNone})) return home;
  for (uint32_t slot = first_slot_[expert]; slot != kNone; slot = slots_[slot].next)
    if (VisitInstance(RankOf(slot), {rank, expert, from_slot, slot})) return RankOf(slot);
  return kNone;
}

uint32_t Repair::VisitRank(uint32_t rank) {
  const PlanShape& shape = problem_->shape;
  const uint32_t first = problem_->first_expert(rank);
  work_->spent += shape.experts_per_rank() + shape.slots;
  for (uint32_t e = first; e < first + shape.experts_per_rank(); ++e) {
    if (first_slot_[e] == kNone || main_tokens_[e] == 0 || expert_mark_[e] == search_) continue;
    const uint32_t found = VisitExpert(e, rank, kNone);
    if (found != kNone) return found;
  }
  const uint32_t first_slot = (rank - domain_.begin) * shape.slots;
  for (uint32_t slot = first_slot; slot < first_slot + shape.slots; ++slot) {
    const Slot& s = slots_[slot];
    if (s.expert == kNone || s.tokens == 0 || expert_mark_[s.expert] == search_) continue;
    const uint32_t found = VisitExpert(s.expert, rank, slot);
    if (found != kNone) return found;
  }
  return kNone;
}

// An expert is stepped through once per search, so no instance occurs twice on a path and the
// smallest of its token counts can be moved along all of it.
void Repair::Push(uint32_t last_rank) {
  uint64_t amount = limit_[last_rank] - rank_tokens_[last_rank];
  uint32_t first_rank = last_rank;
  while (steps_[first_rank].from_rank != kNone) {
    const Step& step = steps_[first_rank];
    amount = std::min(amount, TokensAt(step.expert, step.from_slot));
    first_rank = step.from_rank;
  }
  amount = std::min(amount, rank_tokens_[first_rank] - limit_[first_rank]);
  for (uint32_t r = last_rank; steps_[r].from_rank != kNone; r = steps_[r].from_rank) {
    TokensAt(steps_[r].expert, steps_[r].from_slot) -= amount;
    TokensAt(steps_[r].expert, steps_[r].to_slot) += amount;
  }
  rank_tokens_[first_rank] -= amount;
  rank_tokens_[last_rank] += amount;
}

bool Repair::FlowOnce() {
  ++search_;
  queue_.clear();
  for (uint32_t r = domain_.begin; r < domain_.end; ++r) {
    if (rank_tokens_[r] <= limit_[r]) continue;
    rank_mark_[r] = search_;
    steps_[r] = {};
    queue_.push_back(r);
  }
  for (uint32_t i = 0; i < queue_.size(); ++i) {
    const uint32_t found = VisitRank(queue_[i]);
    if (found == kNone) continue;
    Push(found);
    return true;
  }
  return false;
}

void Repair::FlowAll() {
  while (!work_->over() && FlowOnce()) {
  }
}

// Swap ------------------------------------------------------------------------------------------

// After a failed search the visited ranks are the cut. An expert with an instance outside has no
// tokens left inside, so only experts that are not "visited but gone" are worth a slot.
uint32_t Repair::HeaviestInCut() const {
  uint32_t best = kNone;
  for (const uint32_t rank : queue_) {
    const uint32_t first = problem_->first_expert(rank);
    for (uint32_t e = first; e < first + problem_->shape.experts_per_rank(); ++e) {
      const uint64_t tokens = problem_->expert_tokens[e];
      if (tokens == 0) continue;
      if (best != kNone) {
        const uint64_t most = problem_->expert_tokens[best];
        if (tokens < most || (tokens == most && e > best)) continue;
      }
      bool inside = true;
      for (uint32_t s = first_slot_[e]; s != kNone && inside; s = slots_[s].next)
        inside = rank_mark_[RankOf(s)] == search_;
      if (inside) best = e;
    }
  }
  return best;
}

// The gain is an estimate: how much can travel to the expert's home inside the cut is not looked
// at.
Repair::Swap Repair::BestSwap(uint64_t excess) {
  Swap best;
  work_->spent += slots_.size() + queue_.size() * problem_->shape.experts_per_rank();
  const uint32_t expert = HeaviestInCut();
  if (expert == kNone) return best;
  const uint64_t tokens = problem_->expert_tokens[expert];
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    const uint32_t rank = RankOf(slot);
    if (useless_[slot] || rank_mark_[rank] == search_) continue;
    const Slot& old = slots_[slot];
    uint64_t room = Room(rank), cost = 0, wanted = excess;
    if (old.expert != kNone) {
      const uint32_t home = problem_->shape.home(old.expert);
      const bool returns = rank_mark_[home] == search_;
      const uint64_t home_room = returns ? 0 : Room(home);
      room += old.tokens;
      cost = old.tokens > home_room ? old.tokens - home_room : 0;
      if (returns) wanted += old.tokens;
    }
    const uint64_t moved = std::min({tokens, room, wanted});
    if (moved > cost && moved - cost > best.gain) best = {moved - cost, expert, slot};
  }
  return best;
}

// The slot `except` is about to be emptied and does not count.
bool Repair::CanHost(uint32_t slot, uint32_t expert, uint32_t except) const {
  const uint32_t rank = RankOf(slot);
  if (problem_->shape.home(expert) == rank || problem_->slots_of(rank) == 0) return false;
  for (uint32_t s = first_slot_[expert]; s != kNone; s = slots_[s].next)
    if (s != except && RankOf(s) == rank) return false;
  return true;
}

Repair::Exchange Repair::BestExchange(uint64_t excess) {
  Exchange best;
  work_->spent += slots_.size();
  for (uint32_t in = 0; in < slots_.size(); ++in) {
    const Slot& heavy = slots_[in];
    if (useless_[in] || heavy.tokens == 0 || rank_mark_[RankOf(in)] != search_) continue;
    work_->spent += slots_.size() / 4;  // most are passed over after one comparison
    for (uint32_t out = 0; out < slots_.size(); ++out) {
      const uint32_t rank = RankOf(out);
      const Slot& light = slots_[out];
      if (rank_mark_[rank] == search_ || light.tokens >= heavy.tokens) continue;
      const uint64_t gain = std::min({heavy.tokens - light.tokens, Room(rank), excess});
      if (gain <= best.gain || !CanHost(out, heavy.expert, in)) continue;
      if (light.expert != kNone && !CanHost(in, light.expert, out)) continue;
      best = {gain, in, out};
    }
  }
  return best;
}

void Repair::Judge(uint32_t slot, uint64_t* excess) {
  FlowAll();
  const uint64_t now = Excess();
  if (now < *excess) {
    *excess = now;
    ForgetUseless();
    return;
  }
  Restore();
  useless_[slot] = 1;
  FlowOnce();  // finds nothing, but marks the cut of the restored state
}

bool Repair::TrySwap(uint64_t* excess) {
  const Swap swap = BestSwap(*excess);
  if (swap.expert == kNone) return false;
  Save();
  if (slots_[swap.slot].expert != kNone) Remove(swap.slot);
  Insert(swap.slot, swap.expert, 0);
  Judge(swap.slot, excess);
  return true;
}

bool Repair::TryExchange(uint64_t* excess) {
  const Exchange exchange = BestExchange(*excess);
  if (exchange.inside == kNone) return false;
  Save();
  const Slot heavy = slots_[exchange.inside], light = slots_[exchange.outside];
  Remove(exchange.inside);
  if (light.expert != kNone) Remove(exchange.outside);
  Insert(exchange.outside, heavy.expert, heavy.tokens);
  if (light.expert != kNone) Insert(exchange.inside, light.expert, light.tokens);
  Judge(exchange.inside, excess);
  return true;
}

void Repair::ForgetUseless() {
  for (uint32_t i = 0; i < slots_.size(); ++i) useless_[i] = problem_->slots_of(RankOf(i)) == 0;
}

bool Repair::Reach(const Target& target) {
  limit_ = target.limit.data();
  FlowAll();
  uint64_t excess = Excess();
  ForgetUseless();
  // A change that helps may help by one token only, so the rounds are bounded.
  for (uint64_t round = 0; excess > 0 && round < 2 * slots_.size() && !work_->over(); ++round)
    if (!TrySwap(&excess) && !TryExchange(&excess)) return false;
  return excess == 0;
}

void Repair::Kick(uint32_t number) {
  const PlanShape& shape = problem_->shape;
  // More than a rank's slots can take, so that the choice is wider than the greedy one.
  const uint32_t heavy = std::min(shape.experts_per_rank(), 2 * shape.slots + 4);
  Mixer mixer(number);
  const uint32_t slot = mixer.Below(uint32_t(slots_.size()));
  const uint32_t rank = domain_.begin + mixer.Below(domain_.size());
  const uint32_t expert = problem_->experts_of(rank)[mixer.Below(heavy)];
  if (problem_->expert_tokens[expert] == 0 || !CanHost(slot, expert, slot)) return;
  if (slots_[slot].expert == expert) return;
  if (slots_[slot].expert != kNone) Remove(slot);
  Insert(slot, expert, 0);
}

void Repair::Prune() {
  trials_.clear();
  for (uint32_t i = 0; i < slots_.size(); ++i)
    if (slots_[i].expert != kNone) trials_.push_back(i);
  std::sort(trials_.begin(), trials_.end(), [this](uint32_t a, uint32_t b) {
    return slots_[a].tokens != slots_[b].tokens ? slots_[a].tokens < slots_[b].tokens : a < b;
  });
  for (const uint32_t slot : trials_) {
    Save();
    Remove(slot);
    FlowAll();
    if (Excess() > 0) Restore();
  }
}

}  // namespace ultraep::planner

// Local search from any set of pieces towards a target, for loads that the greedy cover cannot
// bring there.
//
// Three moves alternate:
//   flow: tokens of an expert may pass from any of its instances to any other. Shortest paths from
//     overloaded ranks to ranks with room are filled until none is left (maximum flow).
//   swap: then the ranks reachable from the overloaded ones form a cut whose tokens cannot leave.
//     The heaviest expert that lives inside the cut only gets a slot outside, at the expense of the
//     replica whose return costs least.
//   exchange: two replicas, the heavier one inside the cut, change places.
// A swap or exchange that does not lower the total excess is undone, so the search ends.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/problem.h"

namespace ultraep::planner {

class Repair {
 public:
  explicit Repair(Work* work) : work_(work) {}
  void Reserve(const PlanShape& shape);

  // Takes over `pieces`; they must be legal.
  void Load(const Problem& problem, Domain domain, const std::vector<Piece>& pieces);

  // True when no rank is above its limit at the end. Never raises the total excess. Stops early
  // when the work limit is reached. The target must live until the next one is given.
  bool Reach(const Target& target);

  // Puts some heavy expert into some slot, as a way out of a dead end; Reach then makes the best of
  // it. `number` selects which.
  void Kick(uint32_t number);

  // Drops replicas the target can be kept without; it must have been reached.
  void Prune();

  uint64_t Excess() const;  // tokens above the limits, over all ranks
  uint64_t Peak() const;    // highest level
  void Store(std::vector<Piece>* pieces) const;

 private:
  // One slot of one rank: [rank of the domain][slot].
  struct Slot {
    uint32_t expert = kNone;
    uint32_t next = kNone;  // next slot with the same expert
    uint64_t tokens = 0;
  };
  struct Step {  // how the search came to a rank
    uint32_t from_rank = kNone;
    uint32_t expert = 0;
    uint32_t from_slot = kNone;  // kNone: the main copy
    uint32_t to_slot = kNone;
  };
  struct Swap {
    uint64_t gain = 0;
    uint32_t expert = kNone;
    uint32_t slot = kNone;
  };
  struct Exchange {
    uint64_t gain = 0;
    uint32_t inside = kNone, outside = kNone;  // slots; the outer one may be empty
  };

  uint32_t RankOf(uint32_t slot) const { return domain_.begin + slot / problem_->shape.slots; }
  uint64_t& TokensAt(uint32_t expert, uint32_t slot) {
    return slot == kNone ? main_tokens_[expert] : slots_[slot].tokens;
  }
  void Insert(uint32_t slot, uint32_t expert, uint64_t tokens);
  void Remove(uint32_t slot);  // its tokens return to the main copy
  uint64_t Room(uint32_t rank) const {
    return rank_tokens_[rank] < limit_[rank] ? limit_[rank] - rank_tokens_[rank] : 0;
  }

  void FlowAll();
  bool FlowOnce();
  uint32_t VisitRank(uint32_t rank);
  uint32_t VisitExpert(uint32_t expert, uint32_t rank, uint32_t from_slot);
  bool VisitInstance(uint32_t rank, const Step& step);
  void Push(uint32_t last_rank);

  uint32_t HeaviestInCut() const;
  Swap BestSwap(uint64_t excess);
  Exchange BestExchange(uint64_t excess);
  bool CanHost(uint32_t slot, uint32_t expert, uint32_t except) const;
  bool TrySwap(uint64_t* excess);
  bool TryExchange(uint64_t* excess);
  // Keeps the change if it lowered the excess, else undoes it and notes `slot` as useless.
  void Judge(uint32_t slot, uint64_t* excess);
  void ForgetUseless();
  void Save();
  void Restore();

  Work* work_;
  const Problem* problem_ = nullptr;
  const uint64_t* limit_ = nullptr;  // [rank]
  Domain domain_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> first_slot_;   // [expert]
  std::vector<uint64_t> main_tokens_;  // [expert] tokens the main copy keeps
  std::vector<uint64_t> rank_tokens_;

  // Breadth-first search; an entry is visited when its mark is the present search's number.
  std::vector<uint64_t> rank_mark_, expert_mark_;
  uint64_t search_ = 0;
  std::vector<uint32_t> queue_;
  std::vector<Step> steps_;

  // State before a change on trial.
  std::vector<Slot> saved_slots_;
  std::vector<uint32_t> saved_first_slot_;
  std::vector<uint64_t> saved_main_tokens_, saved_rank_tokens_;
  std::vector<uint32_t> trials_;  // Prune's order
  std::vector<uint8_t> useless_;  // [slot] a change there did not help since the last one that did
};

}  // namespace ultraep::planner

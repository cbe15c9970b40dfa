// When a plan is legal. Called by the planner's owner before publishing and by every reader before
// use: nothing read from a peer is trusted.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "protocol/plan.h"

namespace ultraep {

// The first broken rule, or `what == nullptr`.
struct PlanFault {
  const char* what = nullptr;
  uint32_t index = 0;  // of the replica
  uint64_t value = 0;
  uint64_t limit = 0;

  explicit operator bool() const { return what != nullptr; }
  std::string text() const {
    if (!what) return "legal";
    return "replica " + std::to_string(index) + ": " + what + " (value " + std::to_string(value) +
           ", limit " + std::to_string(limit) + ")";
  }
};

// Empty when the shape can be planned for, else what is wrong and what is allowed.
inline std::string CheckShape(const PlanShape& s) {
  auto bad = [](const char* name, uint64_t value, const std::string& need) {
    return std::string(name) + " is " + std::to_string(value) + ", must be " + need;
  };
  if (s.ranks < 1 || s.ranks > kMaxRanks)
    return bad("ranks", s.ranks, "1.." + std::to_string(kMaxRanks));
  if (s.experts < 1 || s.experts > kMaxExperts)
    return bad("experts", s.experts, "1.." + std::to_string(kMaxExperts));
  if (s.experts % s.ranks)
    return bad("experts", s.experts, "a multiple of ranks (" + std::to_string(s.ranks) + ")");
  if (s.slots > kMaxSlotsPerRank)
    return bad("slots", s.slots, "0.." + std::to_string(kMaxSlotsPerRank));
  if (s.domain_size && s.ranks % s.domain_size)
    return bad("domain_size", s.domain_size,
               "0 or a divisor of ranks (" + std::to_string(s.ranks) + ")");
  return "";
}

// Reusable scratch, so that a check allocates nothing after the first one of a shape.
class PlanChecker {
 public:
  // `expert_tokens(e)` gives the load of expert e summed over all source ranks; it is asked only
  // for experts that have replicas.
  template <class ExpertTokens>
  PlanFault Check(const PlanShape& s, std::span<const Replica> plan, ExpertTokens expert_tokens) {
    if (plan.size() > uint64_t{s.ranks} * s.slots)
      return {"more replicas than slots", 0, plan.size(), uint64_t{s.ranks} * s.slots};
    in_slot_.assign(uint64_t{s.ranks} * s.slots, kEmpty);
    taken_.assign(s.experts, 0);
    for (uint32_t i = 0; i < plan.size(); ++i)
      if (PlanFault fault = CheckOne(s, plan, i, expert_tokens)) return fault;
    return {};
  }

 private:
  static constexpr uint32_t kEmpty = UINT32_MAX;

  template <class ExpertTokens>
  PlanFault CheckOne(const PlanShape& s, std::span<const Replica> plan, uint32_t i,
                     ExpertTokens& expert_tokens) {
    const Replica& r = plan[i];
    if (r.expert >= s.experts) return {"expert out of range", i, r.expert, s.experts - 1};
    if (r.rank >= s.ranks) return {"rank out of range", i, r.rank, s.ranks - 1};
    if (r.slot >= s.slots) return {"slot out of range", i, r.slot, s.slots - 1};
    const uint32_t home = s.home(r.expert);
    if (r.rank == home) return {"replica on the expert's home rank", i, r.rank, home};
    if (s.domain(r.rank) != s.domain(home))
      return {"replica outside the home's scale-up domain", i, s.domain(r.rank), s.domain(home)};
    uint32_t* slots = &in_slot_[uint64_t{r.rank} * s.slots];
    if (slots[r.slot] != kEmpty) return {"slot used twice", i, r.slot, slots[r.slot]};
    for (uint32_t k = 0; k < s.slots; ++k)
      if (slots[k] == r.expert) return {"two copies of an expert on a rank", i, r.expert, k};
    slots[r.slot] = r.expert;
    if (r.parent >= int64_t{i})
      return {"parent is not an earlier transfer", i, uint64_t(r.parent), i};
    if (r.parent < -1) return {"parent below -1", i, uint64_t(int64_t{r.parent}), 0};
    if (r.parent >= 0 && plan[r.parent].expert != r.expert)
      return {"parent carries another expert", i, plan[r.parent].expert, r.expert};
    if (r.tokens == 0) return {"replica without tokens", i, 0, 1};
    const uint64_t load = expert_tokens(r.expert);
    if (r.tokens > load - taken_[r.expert])
      return {"quotas exceed the expert's load", i, r.tokens, load - taken_[r.expert]};
    taken_[r.expert] += r.tokens;
    return {};
  }

  std::vector<uint32_t> in_slot_;  // [rank][slot] -> expert
  std::vector<uint64_t> taken_;    // tokens of the expert already given to replicas
};

}  // namespace ultraep

// Plans for tests of the weights' way: replicas wherever, with the relays that the planner gives
// them.
#pragma once

#include <algorithm>
#include <vector>

#include "daemon/planner/relays.h"
#include "protocol/plan.h"
#include "tests/support/random.h"

namespace ultraep::test {

// Replicas of a few experts, so that their trees are large; some slots stay empty.
inline std::vector<planner::Piece> RandomPieces(const PlanShape& shape, Random* random) {
  std::vector<planner::Piece> pieces;
  for (uint32_t r = 0; r < shape.ranks; ++r)
    for (uint32_t s = 0; s < shape.slots; ++s) {
      const auto e = uint32_t(random->Below(std::min(shape.experts, 4u)));
      bool taken = shape.home(e) == r || random->Below(8) == 0;
      for (const planner::Piece& p : pieces) taken |= p.rank == r && p.expert == e;
      if (!taken) pieces.push_back({e, r, 1 + random->Below(100)});
    }
  return pieces;
}

inline std::vector<Replica> Scheduled(const PlanShape& shape, uint32_t hop,
                                      const std::vector<planner::Piece>& pieces) {
  planner::Relays relays;
  relays.Reserve(shape);
  std::vector<uint32_t> used(shape.ranks, 0);
  std::vector<Replica> replicas;
  for (const auto& t : relays.Schedule(shape, hop, pieces)) {
    const planner::Piece& p = pieces[t.piece];
    replicas.push_back(
        {p.expert, uint16_t(p.rank), uint16_t(used[p.rank]++), t.parent, 0, p.tokens});
  }
  return replicas;
}

}  // namespace ultraep::test

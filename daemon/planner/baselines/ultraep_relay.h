// UltraEP's two-stage relay, written from its description (arXiv 2606.04101, section on weight
// distribution), for comparison with relays.h on the same plans.
//
// Experts in ascending order. From 4 replicas on, k = min(floor(sqrt n), 8, n - 1) of them relay,
// if that makes the longest list of sends at least 2 shorter than n. Relays are the replica ranks
// with the fewest copies to send so far; of the others the first k go to one relay each, the rest
// to the relay with the fewest. A list of destinations is served chunk by chunk, all of them at
// once.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/problem.h"

namespace ultraep::planner {

// One load and many stores: `piece`s of one expert, sent by one rank side by side.
struct Multicast {
  uint32_t sender = 0;
  uint32_t stage = 0;   // 0: from the main copy, 1: from a relay's copy; stages do not wait in line
  int32_t parent = -1;  // piece whose copy is sent on, -1: main copy
  std::vector<uint32_t> pieces;
};

// In the order in which each sender serves them.
std::vector<Multicast> UltraEpRelays(const PlanShape& shape, const std::vector<Piece>& pieces);

}  // namespace ultraep::planner

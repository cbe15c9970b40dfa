// Who sends the weights of each replica, and in which order.
//
// Network model: a non-blocking switch; each rank sends at most one expert per expert-time and
// receives at most one. Chunks are forwarded as they arrive, so a rank further down a tree of
// relays is complete only one hop (chunk + flag latency) later than its parent, however deep it is.
//
// List scheduling: the transfer that can start first is next; among those of one moment, that of
// the expert with most destinations left (its tree will be the deepest). It comes from the holder
// that is free first, the main copy winning ties, so copies travel directly where that is as good;
// a rank whose own experts wait for their first copy counts as busy until they had it.
// A destination that has little to send itself comes first: it makes the better relay. All experts
// share the ranks' links, so each one's tree goes around the traffic of the others.
//
// Source: own design; tree broadcast under the one-port model, see e.g. Bar-Noy and Kipnis,
// "Designing broadcasting algorithms in the postal model" (SPAA 1992).
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/problem.h"

namespace ultraep::planner {

class Relays {
 public:
  // Unit of time: sending one expert takes this long.
  static constexpr uint32_t kExpertTime = 1024;

  struct Transfer {
    uint32_t piece = 0;   // index into the pieces given
    int32_t parent = -1;  // index of an earlier transfer, -1: main copy
  };

  void Reserve(const PlanShape& shape);

  // One transfer per piece, parents before children, each sender's in the order in which it sends.
  // hop: from a chunk's start at a relay's sender to its start at the relay, in kExpertTime.
  const std::vector<Transfer>& Schedule(const PlanShape& shape, uint32_t hop,
                                        const std::vector<Piece>& pieces);

 private:
  // A rank that has, or is getting, an expert.
  struct Holder {
    uint64_t ready = 0;  // when it can send the next copy, as far as known; never too late
    uint64_t since = 0;  // when the first chunk is there
    int32_t transfer = -1;
    uint32_t rank = 0;
  };
  // One expert's tree while it grows.
  struct Tree {
    uint32_t expert = 0;
    uint32_t next = 0, end = 0;              // destinations left, in destinations_
    uint32_t holders = 0, holder_count = 0;  // heap in holders_
    uint64_t start = 0;                      // of its next transfer, never too late
  };

  void Plant(const PlanShape& shape, const std::vector<Piece>& pieces);
  void Settle(Tree* tree);
  uint32_t PickDestination(const Tree& tree, uint64_t ready, const std::vector<Piece>& pieces);
  void Send(Tree* tree, uint32_t picked, uint64_t start, uint32_t hop,
            const std::vector<Piece>& pieces);

  std::vector<Transfer> transfers_;
  std::vector<Tree> trees_;             // heap by start
  std::vector<uint32_t> destinations_;  // piece indices, tree by tree
  std::vector<Holder> holders_;
  std::vector<uint64_t> sends_until_, receives_until_;  // [rank]
  std::vector<uint32_t> exports_;                       // [rank] distinct experts sent from home
  std::vector<uint32_t> unsent_;                        // [rank] of them without a copy so far
};

}  // namespace ultraep::planner

// Greedy cover: excess of the ranks above a threshold, cut into pieces that fit below it elsewhere.
//
// Always serves the rank with the largest open excess, from its heaviest unfinished expert, and
// picks the tightest room that closes it, else the largest one. Interleaving the exporters leaves
// the tight fits for the end, where one piece closes an exporter and a receiver at the same time:
// that is what saves replicas. Variants scale excess and room by fixed noise factors per rank and
// so break the greedy order; the best of a few is much better than the first.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/problem.h"

namespace ultraep::planner {

inline constexpr uint32_t kMaxVariants = 16;

struct CoverOptions {
  uint64_t threshold = 0;   // peak to reach
  uint32_t variant = 0;     // 0: no noise
  uint32_t slots = 1;       // usable slots per rank, at most the shape's
  bool chain = false;       // a rank that is full after this piece takes all its room can hold; the
                            // exporter becomes a receiver for what it gave too much
  uint32_t fewer_than = 0;  // give up at this many pieces; 0: never
};

class Cover {
 public:
  explicit Cover(Work* work) : work_(work) {}
  void Reserve(const PlanShape& shape);

  // Fills `pieces`. Returns the tokens that stay above the threshold: 0 when it was reached. When
  // it gives up early the pieces are worthless and the result is UINT64_MAX.
  uint64_t Run(const Problem& problem, Domain domain, const CoverOptions& options,
               std::vector<Piece>* pieces);

 private:
  struct Exporter {
    uint64_t need;
    uint32_t rank;
    uint32_t noise;
    uint32_t next;  // into the rank's sorted experts
    uint64_t left;  // tokens of that expert still at home
  };
  struct Receiver {
    uint64_t room;
    uint32_t rank;
    uint32_t noise;
    uint32_t slots;
  };

  void Start(const Problem& problem, Domain domain, const CoverOptions& options);
  uint32_t LargestNeed() const;
  uint32_t BestReceiver(uint64_t want, bool closes) const;
  // One piece of exporter `s`; false when it has nothing to give or nobody has room.
  bool Step(const Problem& problem, const CoverOptions& options, uint32_t s,
            std::vector<Piece>* pieces);

  Work* work_;
  std::vector<Exporter> exporters_;
  std::vector<Receiver> receivers_;
};

}  // namespace ultraep::planner

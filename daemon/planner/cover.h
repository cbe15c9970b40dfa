// Greedy cover: excess of the ranks above their limits, cut into pieces that fit below the limits
// elsewhere. A microsecond per run at 64 ranks, so many variants of it can be tried.
//
// Always serves the rank with the largest open excess, from its heaviest unfinished expert:
//   * the tightest room that takes the rest of the excess (or of the expert) in one piece, else
//   * the two rooms that take it with the fewest tokens to spare, else the largest room.
// Interleaving the exporters and pairing rooms leaves little room unused, and that is what saves
// replicas: with one slot per rank their number is that of the ranks that receive.
//
// Chaining (MoonEP's idea: an exporter may import): when a receiver's last slot would leave more
// room unused than the load can spare, the exporter fills it up, ends below its own limit, and
// receives in turn.
//
// Variants scale the excess by fixed noise factors per rank and take the second or third largest
// room at times. The last variant is the order of the published UltraEP heuristic (arXiv
// 2606.04101): one exporter after the other, always the largest room.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <vector>

#include "daemon/planner/problem.h"
#include "protocol/limits.h"

namespace ultraep::planner {

inline constexpr uint32_t kMaxVariants = 64;
inline constexpr uint32_t kPublishedOrder = UINT32_MAX;  // as CoverOptions::variant

// What plans are compared by, in this order.
struct CoverCost {
  // Most experts one rank receives or sends: what the transfer takes, in expert-times, when copies
  // are relayed while they arrive.
  uint32_t transfer = UINT32_MAX;
  uint32_t pieces = UINT32_MAX;

  auto operator<=>(const CoverCost&) const = default;
};

struct CoverOptions {
  uint32_t variant = 0;      // 0: no noise
  uint32_t slots = 1;        // usable slots per rank, at most the shape's
  uint32_t tile_tokens = 0;  // pieces of less than a whole expert are multiples of it
};

class Cover {
 public:
  explicit Cover(Work* work) : work_(work) {}
  void Reserve(const PlanShape& shape);

  // For all runs towards `target`. Sorts the exporters' experts.
  void Prepare(Problem* problem, Domain domain, const Target& target);

  // No cover towards the target is better than this.
  CoverCost bound() const { return bound_; }

  // Fills `pieces` if the limits can be kept with less than `beat`, and lowers it to the cost.
  bool Run(const CoverOptions& options, CoverCost* beat, std::vector<Piece>* pieces);

  // As Run, but goes on when an exporter cannot get rid of its excess: a start for the repair.
  void RunToTheEnd(const CoverOptions& options, std::vector<Piece>* pieces);

 private:
  // Lists are sorted and packed: tokens (below 2^53, scaled by noise below 2^54) above nine bits of
  // the rank in the domain.
  static constexpr uint32_t kRankBits = 9;
  static_assert(kMaxRanks <= 1u << kRankBits);
  using List = std::array<uint64_t, kMaxRanks>;
  static uint64_t Pack(uint64_t tokens, uint32_t rank) { return tokens << kRankBits | rank; }
  static uint64_t Tokens(uint64_t packed) { return packed >> kRankBits; }
  static uint32_t RankIn(uint64_t packed) { return packed & ((1u << kRankBits) - 1); }
  static void Insert(List* list, uint32_t* size, uint64_t packed);

  struct Rank {
    uint64_t need;  // tokens above the limit
    uint64_t left;  // tokens of its present expert still at home
    uint32_t noise;
    uint32_t next;   // its present expert, in order of weight
    uint32_t slots;  // free ones
  };
  enum class Result {
    kDone,
    kWasteful,
    kStuck
  };  // wasteful: done, but the room left is too little
  struct Choice {
    uint32_t room;  // its place in the list
    bool pair;      // another room takes the rest
  };

  void FindBound();
  void Start(const CoverOptions& options);
  bool NextExpert(uint32_t rank);
  Choice ChooseRoom(uint64_t want, bool closes, const CoverOptions& options);
  uint32_t TightestPair(uint64_t want) const;
  uint64_t Chain(uint64_t tokens, uint64_t room, uint64_t left, uint32_t tile) const;
  bool Waste(uint64_t tokens);
  Result Step(uint32_t exporter, const CoverOptions& options, std::vector<Piece>* pieces);
  void QueueExporter(uint32_t rank);

  Work* work_;
  Problem* problem_ = nullptr;
  Domain domain_;
  CoverCost bound_;

  // As Prepare found it.
  List start_rooms_;      // ascending
  List start_exporters_;  // (need, rank)
  uint32_t start_rooms_size_ = 0, start_exporters_size_ = 0;
  uint64_t start_spare_ = 0;
  bool possible_ = false;

  // Of the present run.
  List rooms_, exporters_;  // ascending; exporters by need x noise
  uint32_t rooms_size_ = 0, exporters_size_ = 0;
  std::vector<Rank> ranks_;
  uint64_t spare_ = 0;  // room that may stay unused
  uint32_t random_ = 0;
  uint32_t current_ = kNone;  // an exporter that goes on at once
  uint32_t transfer_ = 0;
};

}  // namespace ultraep::planner

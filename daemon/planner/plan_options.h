// Everything that can be chosen about a plan. A plan is a function of the load and of these values,
// so all daemons of a group must have the same ones.
#pragma once

#include <cstdint>
#include <vector>

namespace ultraep {

// Unit of PlanOptions::speeds: a rank at nominal speed.
inline constexpr uint32_t kFullSpeed = 1024;

inline constexpr uint32_t kMaxRelayHop = 65536;

// What a step is predicted to cost; all zero: not known, and the objective of the README holds as
// it stands. Unit: picoseconds each, range 0..2^40 (about a second).
//   predicted = max over ranks (tokens x token + experts with tokens x instance) + transfer x
//   expert
// transfer: the longest of all ranks' transfers in expert-times, see Certificate.
struct CostModel {
  uint64_t token = 0;     // one more token on a rank, all layers' work per token included
  uint64_t expert = 0;    // one expert's weights over one link
  uint64_t instance = 0;  // one more active expert on a rank: its launch and its partial tile

  bool known() const { return token || expert || instance; }
  bool operator==(const CostModel&) const = default;
};

// The links that weights travel on; what a group's relay_hop is computed from.
struct LinkModel {
  uint32_t mb_per_s = 710'000;       // of one rank, in one direction; range 1..4'000'000
  uint32_t flag_latency_ns = 2'000;  // from a flag's store to its reader's next store; 0..1'000'000

  // In the unit of PlanOptions::relay_hop.
  uint32_t RelayHop(uint64_t expert_bytes, uint64_t chunk_bytes) const {
    if (expert_bytes == 0) return kMaxRelayHop;
    const uint64_t chunk = chunk_bytes < expert_bytes ? chunk_bytes : expert_bytes;
    const uint64_t latency_bytes = uint64_t{mb_per_s} * flag_latency_ns / 1000;  // on the link
    const uint64_t hop = (chunk + latency_bytes) * 1024 / expert_bytes;
    return hop < kMaxRelayHop ? uint32_t(hop) : kMaxRelayHop;
  }
};

struct PlanOptions {
  // How far the peak may stay above the lower bound. Unit: parts per million of the bound, range
  // 0..1'000'000. Smaller values cost replicas (about 8 % more from 10'000 to 5'000 at 64 ranks).
  // 0 is the exact mode: as many tokens on every rank, give or take one, where the slots allow it.
  uint32_t epsilon_ppm = 5000;

  // Greedy covers tried per stage. Range 1..64, larger values are taken as 64. Each one costs about
  // a microsecond at 64 ranks; more of them save replicas.
  uint32_t variants = 8;

  // Work after which the search stops with the best plan so far. Unit: table entries looked at,
  // about 4 ns each; range 0..2^32-1. Counted rather than timed, so that all machines stop at the
  // same place. Only loads near the limit of what the slots can do come close to it; the default
  // keeps them at about a millisecond, half of the ranks' solve deadline.
  uint32_t work_limit = 300'000;

  // Tokens a grouped GEMM handles in one tile. With a value above 1 quotas are multiples of it for
  // all instances of an expert but one, where the peak allows it. Unit: tokens, 0 and 1: off.
  uint32_t tile_tokens = 0;

  // What forwarding through one relay adds to a transfer: a chunk's time on the link and the
  // latency of its flag. Unit: 1/1024 of the time one expert takes on a link, range 0..65536. The
  // default is that of 37.75 MB experts on 710 GB/s links with 2 us flags. Larger values make
  // flatter trees.
  uint32_t relay_hop = 46;

  CostModel cost;

  // [ranks] how fast each rank is, 1..kFullSpeed, with the fastest at kFullSpeed; empty: all equal.
  // The certificate then counts tokens of a rank at full speed. Its size must be 0 or the ranks.
  std::vector<uint32_t> speeds;

  // [ranks] nonzero: the rank's slots cannot be used (fenced, or short of memory). Its main experts
  // stay where they are. Its size must be 0 or the ranks.
  std::vector<uint8_t> without_slots;
};

}  // namespace ultraep

// A plan: which expert has a replica in which slot, how many tokens each instance takes, and the
// order in which weights travel. What a plan means is here; which plan to choose is the planner's.
//
// Worked example: ranks 2, experts 2 (expert 0 on rank 0, expert 1 on rank 1), slots 1.
//   load of expert 0 = 12, of expert 1 = 4        peak before = 12, mean = 8
//   replicas = {{expert 0, rank 1, slot 0, parent -1, tokens 4}}
//   quotas: main of expert 0 takes 12 - 4 = 8, its replica 4, main of expert 1 takes 4; peak = 8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "protocol/host_device.h"
#include "protocol/limits.h"
#include "protocol/load.h"

namespace ultraep {

// One replica with tokens. Its index in the plan is also the index of its weight transfer:
//
//    0        4      6      8        12       16              24
//   +--------+------+------+--------+--------+---------------+
//   | expert | rank | slot | parent | unused | tokens (quota)|
//   +--------+------+------+--------+--------+---------------+
//
// parent -1: the weights come from the main copy. Otherwise: from the replica with that index,
// which must be an earlier one of the same expert. A rank serves its outgoing transfers in index
// order, so the lowest unfinished transfer can always run.
struct Replica {
  uint32_t expert = 0;
  uint16_t rank = 0;
  uint16_t slot = 0;
  int32_t parent = -1;
  uint32_t unused = 0;
  uint64_t tokens = 0;

  bool operator==(const Replica&) const = default;
};
static_assert(sizeof(Replica) == 24 && alignof(Replica) == 8, "bump kLayoutVersion");
static_assert(offsetof(Replica, parent) == 8 && offsetof(Replica, tokens) == 16,
              "bump kLayoutVersion");

// What the planner says about its own result; every value counts tokens.
// u64 each: total 0 | peak_before 8 | peak 16 | lower_bound 24                    32
struct Certificate {
  uint64_t total = 0;        // all tokens of the step
  uint64_t peak_before = 0;  // most tokens on one rank without replicas
  uint64_t peak = 0;         // most tokens on one rank under the plan
  uint64_t lower_bound = 0;  // no plan for this problem has a smaller peak

  // How far the peak is above the bound, 0 at the optimum.
  double gap() const { return lower_bound ? double(peak) / double(lower_bound) - 1 : 0; }

  bool operator==(const Certificate&) const = default;
};
static_assert(sizeof(Certificate) == 32 && alignof(Certificate) == 8 &&
                  offsetof(Certificate, lower_bound) == 24,
              "bump kLayoutVersion");

struct Plan {
  std::vector<Replica> replicas;  // in transfer order
  Certificate certificate;

  bool operator==(const Plan&) const = default;
};

// Max over ranks / mean over ranks. 1.0 is perfect, also when there are no tokens at all.
inline double Imbalance(uint64_t peak, uint64_t total, uint32_t ranks) {
  return total == 0 ? 1.0 : double(peak) * ranks / double(total);
}

// The rank that sends transfer `index`.
inline uint32_t SenderOf(const PlanShape& shape, const Replica* replicas, uint32_t index) {
  const Replica& r = replicas[index];
  return r.parent < 0 ? shape.home(r.expert) : replicas[r.parent].rank;
}

// Physical expert ids number the instances of a rank side by side: first its mains, then its slots.
struct PhysicalIds {
  uint32_t experts_per_rank, slots;

  ULTRAEP_HOST_DEVICE uint32_t per_rank() const { return experts_per_rank + slots; }
  ULTRAEP_HOST_DEVICE uint32_t main(uint32_t expert) const {
    return expert / experts_per_rank * per_rank() + expert % experts_per_rank;
  }
  ULTRAEP_HOST_DEVICE uint32_t replica(uint32_t rank, uint32_t slot) const {
    return rank * per_rank() + experts_per_rank + slot;
  }
  ULTRAEP_HOST_DEVICE uint32_t rank(uint32_t physical) const { return physical / per_rank(); }
};

}  // namespace ultraep

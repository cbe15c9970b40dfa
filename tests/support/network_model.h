// A discrete-event model of a weight transfer: a non-blocking switch, one link in and one out per
// rank, chunks, flags, and senders that serve their queues in order and wait for what they forward.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/planner/baselines/ultraep_relay.h"
#include "protocol/boards.h"
#include "protocol/plan.h"

namespace ultraep::test {

struct NetworkModel {
  uint64_t expert_bytes = 37'748'736;  // 3072 x 4096 + 1536 x 4096 in bf16
  uint64_t chunk_bytes = kChunkBytes;
  double link_gb_s = 710;
  double flag_us = 2;  // from a chunk's last byte to its relay's first store of it

  double expert_us() const { return double(expert_bytes) / link_gb_s * 1e-3; }
};

struct Makespan {
  double us = 0;            // until the last chunk is there
  double expert_times = 0;  // the same in units of one expert on one link
  double bound = 0;         // expert-times: max(ingress, distinct experts exported, total / ranks)
  uint32_t depth = 0;       // flags on the way to what arrives last
  double bound_with_flags = 0;  // expert-times: bound + depth x flag
};

// A plan as our senders serve it.
Makespan SimulateTransfer(const NetworkModel& model, const PlanShape& shape,
                          const std::vector<Replica>& replicas);
// Lists of multicasts; `pieces` are the copies they number.
Makespan SimulateTransfer(const NetworkModel& model, const PlanShape& shape,
                          const std::vector<planner::Piece>& pieces,
                          const std::vector<planner::Multicast>& multicasts);

}  // namespace ultraep::test

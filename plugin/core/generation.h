// One life of the group's shared memory as this rank sees it. Lives until the last plan that was
// made in it is freed: leaving a board is not unmapping (rule 8).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "protocol/boards.h"
#include "protocol/transport/mapping.h"
#include "protocol/transport/seqpacket.h"
#include "protocol/transport/waiting.h"

namespace ultraep {

class Streamer;

// How long this rank waits for what.
struct RankClocks {
  uint64_t step_timeout_ns = 0;    // rows missing, transfers
  uint64_t solve_deadline_ns = 0;  // from `collected` to the verdict
  uint64_t spin_ns = 0;            // before every sleep
};

struct Generation {
  Generation(const GroupConfig& config, uint32_t own_rank, uint64_t number);
  ~Generation();

  // Takes descriptor `index` in the order of protocol/message.h (doorbell first), checks and maps
  // it. Empty on success.
  std::string Add(uint32_t index, Descriptor descriptor);

  // Raises the pulse of the verdict board and wakes whoever sleeps on it.
  void WakeMembers() const { PulseAndWake(boards.pulse()); }
  void RingDoorbell() const;
  // A rank that left or died, or -1. Known only as long as the daemon lives.
  bool IsGone(uint32_t member) const;

  const GroupLayout layout;
  const uint32_t rank;
  const uint64_t id;
  RankClocks clocks;
  Boards boards;
  Descriptor doorbell;
  std::unique_ptr<Streamer> streamer;  // set by whoever sets up the generation

 private:
  std::vector<Mapping> mappings_;
};

}  // namespace ultraep

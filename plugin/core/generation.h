// One life of the group's shared memory as this rank sees it. Leaving a board is not unmapping
// (rule 8): it lives until the rank has switched to a later one and its operations are joined.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "protocol/boards.h"
#include "protocol/lease.h"
#include "protocol/transport/mapping.h"
#include "protocol/transport/seqpacket.h"
#include "protocol/transport/waiting.h"

namespace ultraep {

class DeviceSlots;
class OperationBook;
class Reducer;
class StepMemory;
class Streamer;

// Slots on GPUs: mapped here, and their place in the mailbox, which goes with them.
struct DevicePart {
  DevicePart();
  ~DevicePart();

  std::shared_ptr<StepMemory> memory;
  std::unique_ptr<DeviceSlots> slots;
  uint32_t index;
};

// How long this rank waits for what, and how many threads it gives us.
struct RankSettings {
  uint64_t step_timeout_ns = 0;    // rows missing, transfers
  uint64_t solve_deadline_ns = 0;  // from `collected` to the verdict
  uint64_t spin_ns = 0;            // before every sleep
  uint32_t copy_threads = 1;       // for streams, and as many for reductions
};

struct Generation {
  Generation(const GroupConfig& config, uint32_t own_rank, uint64_t number);
  ~Generation();

  // Takes the descriptors of a Joined, checks them, maps every segment in host memory. What is left
  // of them belongs to slots on GPUs. Empty on success.
  std::string Map(std::vector<Descriptor>* descriptors);

  // Once boards and settings are there: what issues operations on them.
  void StartOperations();

  // Raises the pulse of the verdict board and wakes whoever sleeps on it.
  void WakeMembers() const { PulseAndWake(boards.pulse()); }
  void RingDoorbell() const;
  // A rank that left, died or was fenced: as the daemon says or, since it is gone, as the member's
  // own heartbeat says.
  bool IsGone(uint32_t member) const;
  std::string WhoIsGone() const;  // "rank 3 left"; empty: nobody, as far as is known
  std::string FailureText() const;  // "the generation has failed", and who is gone
  // The link's thread, once the daemon that made this generation is gone.
  void WatchMembers(uint64_t now);
  void Beat(uint64_t now) const {
    ULTRAEP_POINT("heartbeat:before");
    boards.rank(rank).heartbeat.value.store(now, std::memory_order_relaxed);
    ULTRAEP_POINT("heartbeat:set");
  }
  Gate gate() const { return LoadGate(boards.gate()); }
  bool failed() const { return gate().state == GateState::kFailed; }
  // Wakes whoever waits for a transfer: a member is gone, or the gate has changed. Who just goes to
  // sleep sees it one heartbeat later.
  void WakeOperations() const;
  // Rule 3: this rank cannot follow. Every wait of every member ends.
  void Fail() const;
  // Rule 0: who knows somebody gone ends it before anything else.
  void End() const;

  const GroupLayout layout;
  const uint32_t rank;
  const uint64_t id;
  RankSettings settings;
  Boards boards;
  Descriptor doorbell;
  std::unique_ptr<OperationBook> book;
  std::unique_ptr<Streamer> streamer;
  std::unique_ptr<Reducer> reducer;
  std::unique_ptr<DevicePart> device;  // null: slots are in host memory
  uint64_t lease_ns = 0;
  bool orphaned = false;  // the daemon that made it is gone; the link thread's
  // FAILED is reported once; afterwards steps are declined until the next generation.
  std::atomic<bool> failure_told{false};

 private:
  std::string MapChecked(const std::vector<Descriptor>& files, SegmentKind kind, uint32_t member);

  std::vector<Mapping> mappings_;
  std::vector<Lease> leases_;                    // [ranks], the link thread's
  std::unique_ptr<std::atomic<bool>[]> wedged_;  // [ranks]
};

}  // namespace ultraep

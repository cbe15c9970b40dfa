// Sends one rank's share of a plan's weights into remote slots, chunk by chunk, in the plan's
// order; relays forward chunks as they arrive. A template over a team (team.h); any number of teams
// may work on one operation.
//
//   claim the next run of chunks of the rank's queue
//   wait until every destination accepts this very operation    nothing is stored before (rule 6)
//   for each chunk:  wait until it is here (a relay's source)
//                    load, store to all destinations
//                    signal it, if somebody relays it further    data before flag, always
//   signal the run's chunks, if nobody does
//
// Flags carry the operation's number and are never reset. Runs are claimed in the order of the
// queue, and whoever holds one waits only for earlier transfers: the lowest unfinished transfer of
// the group can always run.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/operation.h"
#include "protocol/host_device.h"
#include "protocol/plan.h"
#include "protocol/slot_board.h"
#include "protocol/test_points.h"

namespace ultraep {

// An entry of a rank's queue: one source, and every transfer that is fed from it at once.
struct Send {
  uint32_t expert = 0;  // logical
  int32_t parent = -1;  // transfer whose slot on this rank is the source; -1: the main copy
  uint32_t first = 0;   // destinations: StreamOperation::transfers[first .. first + count)
  uint32_t count = 0;
  uint32_t run = 0;          // chunks that a team claims at once
  uint32_t relayed = 0;      // 1: somebody waits for single chunks
  uint64_t first_claim = 0;  // the queue's claims are numbered through
};

// One stream (forward or restore) of one slot set, the same on all ranks. Plain pointers: host or
// device memory.
struct StreamOperation {
  uint64_t number = 0;
  uint32_t set = 0;
  uint32_t self = 0;
  const Replica* replicas = nullptr;   // transfer order
  const void* const* mains = nullptr;  // [experts_per_rank][shard_count] of this rank
  uint32_t experts_per_rank = 0;
  const Send* sends = nullptr;  // [send_count], this rank's queue
  uint32_t send_count = 0;
  const uint32_t* transfers = nullptr;  // indices in `replicas`
  uint64_t claims = 0;                  // of the whole queue
};

// Of one team; its member 0's.
struct StreamTally {
  uint64_t bytes = 0;          // stored
  uint64_t relayed_bytes = 0;  // of bytes: from a slot of this rank instead of a main copy
  uint64_t loaded_bytes = 0;   // less than bytes where one load served several
  uint64_t transfers = 0;      // ended by this team
  uint64_t copy_ns = 0;
  uint64_t wait_ns = 0;

  ULTRAEP_HOST_DEVICE void Add(const StreamTally& more) {
    bytes += more.bytes;
    relayed_bytes += more.relayed_bytes;
    loaded_bytes += more.loaded_bytes;
    transfers += more.transfers;
    copy_ns += more.copy_ns;
    wait_ns += more.wait_ns;
  }
};

// The queue of rank `self`. Neighbours with one source are fed together as long as nobody relays
// those before the last: its chunks then come no later than alone. `teams` that will share it.
class SendQueue {
 public:
  SendQueue(const PlanShape& shape, const Replica* replicas, uint32_t count, uint32_t self,
            uint64_t chunks, uint32_t teams);
  const std::vector<Send>& sends() const { return sends_; }
  const std::vector<uint32_t>& transfers() const { return transfers_; }
  // Into `operation`, which must not outlive the queue.
  void Fill(StreamOperation* operation) const;

 private:
  std::vector<Send> sends_;
  std::vector<uint32_t> transfers_;
  uint64_t claims_ = 0;
};

namespace stream_internal {

// Chunks after which a relay that sleeps is woken: for each it would sleep and wake anew. One that
// is awake sees every chunk by its flag.
inline constexpr uint64_t kWakeEvery = 4;

// Chunk `chunk` of an expert: its shard and the bytes of it.
struct Piece {
  uint32_t shard = 0;
  uint64_t at = 0, bytes = 0;
};

inline ULTRAEP_HOST_DEVICE Piece PieceOf(const SlotLayout& layout, uint64_t chunk) {
  Piece p;
  while (p.shard + 1 < layout.shard_count && chunk >= layout.shard_chunk[p.shard + 1]) ++p.shard;
  p.at = (chunk - layout.shard_chunk[p.shard]) * kChunkBytes;
  const uint64_t left = layout.shard_bytes[p.shard] - p.at;
  p.bytes = left < kChunkBytes ? left : kChunkBytes;
  return p;
}

template <class Team>
ULTRAEP_HOST_DEVICE void CopyChunk(Team& team, const SlotView& slots, const StreamOperation& op,
                                   const Send& send, uint64_t chunk, StreamTally* tally) {
  const SlotLayout& layout = *slots.layout;
  const Piece p = PieceOf(layout, chunk);
  const unsigned char* from =
      send.parent < 0
          ? static_cast<const unsigned char*>(
                op.mains[uint64_t{send.expert % op.experts_per_rank} * layout.shard_count +
                         p.shard])
          : slots.shard(op.self, op.set, op.replicas[send.parent].slot, p.shard);
  constexpr uint32_t kTogether = 8;
  for (uint32_t done = 0; done < send.count; done += kTogether) {
    void* to[kTogether];
    uint32_t count = 0;
    for (; count < kTogether && done + count < send.count; ++count) {
      const Replica& r = op.replicas[op.transfers[send.first + done + count]];
      to[count] = slots.shard(r.rank, op.set, r.slot, p.shard) + p.at;
    }
    team.Copy(to, count, from + p.at, p.bytes);
    tally->loaded_bytes += p.bytes;
  }
  tally->bytes += p.bytes * send.count;
  if (send.parent >= 0) tally->relayed_bytes += p.bytes * send.count;
}

// Chunks [begin, end) are in the slots of all destinations: their flags say so.
template <class Team>
ULTRAEP_HOST_DEVICE void SignalChunks(Team& team, const SlotView& slots, const StreamOperation& op,
                                      const Send& send, uint64_t begin, uint64_t end) {
  team.OrderCopies();
  team.Sync();
  if (team.rank() != 0) return;
  for (uint32_t i = 0; i < send.count; ++i) {
    const Replica& r = op.replicas[op.transfers[send.first + i]];
    std::atomic<uint64_t>* flags = slots.chunk_flags(r.rank, op.set, r.slot);
    for (uint64_t c = begin; c < end; ++c) team.Signal(flags + c, op.number);
  }
  ULTRAEP_POINT("chunk:flag");
}

// Wakes who sleeps on the slots of the destinations.
template <class Team, class Waits>
ULTRAEP_HOST_DEVICE void Announce(Team& team, Waits& waits, const StreamOperation& op,
                                  const Send& send) {
  if (team.rank() != 0) return;
  for (uint32_t i = 0; i < send.count; ++i)
    waits.Announce(op.replicas[op.transfers[send.first + i]].rank);
}

template <class Team, class Waits>
ULTRAEP_HOST_DEVICE bool SendRun(Team& team, Waits& waits, const SlotView& slots,
                                 const StreamOperation& op, const Send& send, uint64_t begin,
                                 uint64_t end, StreamTally* tally) {
  uint64_t start = team.Now();
  const bool accepted = team.Elect([&] {
    for (uint32_t i = 0; i < send.count; ++i)
      if (!waits.Accepted(op.replicas[op.transfers[send.first + i]].rank)) return uint64_t{0};
    return uint64_t{1};
  });
  if (!accepted) return false;
  uint64_t now = team.Now();
  tally->wait_ns += now - start;
  for (uint64_t chunk = begin; chunk < end; ++chunk) {
    if (send.parent >= 0) {
      start = now;
      if (!team.Elect([&] { return uint64_t{waits.Chunk(uint32_t(send.parent), chunk)}; }))
        return false;
      now = team.Now();
      tally->wait_ns += now - start;
    }
    start = now;
    ULTRAEP_POINT("chunk:before");
    CopyChunk(team, slots, op, send, chunk, tally);
    ULTRAEP_POINT("chunk:data");
    // For anybody but a relay one fence and one wake at the end are cheaper.
    if (send.relayed) {
      SignalChunks(team, slots, op, send, chunk, chunk + 1);
      if (chunk % kWakeEvery == kWakeEvery - 1) Announce(team, waits, op, send);
    }
    now = team.Now();
    tally->copy_ns += now - start;
  }
  if (!send.relayed) SignalChunks(team, slots, op, send, begin, end);
  tally->copy_ns += team.Now() - now;
  return true;
}

}  // namespace stream_internal

// Waits: how the caller waits and wakes; the algorithm says for what. Member 0 calls it.
//   bool Accepted(rank)          until that rank accepts this operation on its set
//   bool Chunk(transfer, chunk)  until the chunk of that transfer is in this rank's slot
//   void Announce(rank)          something has come into that rank's slots
// Both waits return false when it will never come; the stream then stops and returns false.
// next: the teams' common claim; done: [send_count] claims that are over. All 0 at first.
template <class Team, class Waits>
ULTRAEP_HOST_DEVICE bool SendWeights(Team& team, Waits& waits, const SlotView& slots,
                                     const StreamOperation& op, typename Team::Counter* next,
                                     typename Team::Counter* done, StreamTally* tally) {
  const uint64_t chunks = slots.layout->chunks;
  uint32_t at = 0;
  for (;;) {
    const uint64_t claim = team.Elect([&] { return team.Claim(next); });
    if (claim >= op.claims) return true;
    while (at + 1 < op.send_count && claim >= op.sends[at + 1].first_claim) ++at;
    const Send& send = op.sends[at];
    const uint64_t begin = (claim - send.first_claim) * send.run;
    const uint64_t end = begin + send.run < chunks ? begin + send.run : chunks;
    if (!stream_internal::SendRun(team, waits, slots, op, send, begin, end, tally)) return false;
    const uint64_t runs = (chunks + send.run - 1) / send.run;
    if (team.Elect([&] { return team.Claim(&done[at]); }) + 1 < runs) continue;
    stream_internal::Announce(team, waits, op, send);
    tally->transfers += send.count;
  }
}

// The first of `count` transfers into a slot of `self` that is not complete, or `count`.
uint32_t FirstMissingTransfer(const SlotView& slots, const Replica* replicas, uint32_t count,
                              uint32_t self, uint32_t set, uint64_t number);

}  // namespace ultraep

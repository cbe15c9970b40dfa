#include "kernels/stream_weights.h"

#include <algorithm>

#include "kernels/copy_bytes.h"
#include "protocol/test_points.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

// A relay behind `index` waits for every chunk, anybody else for the last one.
bool IsRelayed(const StreamOperation& op, uint32_t index) {
  for (uint32_t i = index + 1; i < op.replicas.size(); ++i)
    if (op.replicas[i].parent == int64_t{index}) return true;
  return false;
}

void Announce(SlotBoard& slots) {
  ULTRAEP_POINT("arrivals:before");
  slots.arrivals.count.fetch_add(1, std::memory_order_seq_cst);
  ULTRAEP_POINT("arrivals:raised");
  if (slots.sleeping.value.load(std::memory_order_seq_cst)) WakeAll(slots.arrivals);
}

// The chunks before `end` are in the slot: their flags say so. Data before flags, always.
void Signal(const Boards& boards, const StreamOperation& op, const Replica& r, uint64_t* signalled,
            uint64_t end) {
  OrderCopies();
  for (; *signalled < end; ++*signalled)
    boards.chunk_flag(r.rank, op.set, r.slot, *signalled)
        .store(op.number, std::memory_order_release);
  ULTRAEP_POINT("chunk:flag");
}

bool SendOne(const Boards& boards, uint32_t self, const StreamOperation& op, uint32_t index,
             StreamWaits* waits, StreamTally* tally) {
  const GroupLayout& layout = *boards.layout;
  const GroupConfig& config = layout.config;
  const Replica& r = op.replicas[index];
  const Replica* parent = r.parent < 0 ? nullptr : &op.replicas[r.parent];
  SlotBoard& slots = boards.slots(r.rank);
  const bool relayed = IsRelayed(op, index);
  uint64_t signalled = 0;
  for (uint32_t shard = 0; shard < config.shard_count; ++shard) {
    const auto* from = static_cast<const unsigned char*>(
        parent ? boards.shard(self, op.set, parent->slot, shard)
               : op.mains[uint64_t{r.expert % op.shape.experts_per_rank()} * config.shard_count +
                          shard]);
    unsigned char* to = boards.shard(r.rank, op.set, r.slot, shard);
    for (uint64_t c = 0; c < layout.shard_chunks(shard); ++c) {
      const uint64_t chunk = layout.shard_chunk[shard] + c;
      const uint64_t at = c * kChunkBytes;
      const uint64_t bytes = std::min(kChunkBytes, config.shard_bytes[shard] - at);
      uint64_t start = NowNs();
      if (parent) {
        if (!waits->Chunk(boards.chunk_flag(self, op.set, parent->slot, chunk), op.number,
                          uint32_t(r.parent)))
          return false;
        const uint64_t ready = NowNs();
        tally->wait_ns += ready - start;
        tally->relayed_bytes += bytes;
        start = ready;
      }
      ULTRAEP_POINT("chunk:before");
      CopyNonTemporal(to + at, from + at, bytes);
      ULTRAEP_POINT("chunk:data");
      // Only a relay reads single chunks: for anybody else one fence at the end is cheaper.
      if (relayed || chunk + 1 == layout.chunks) Signal(boards, op, r, &signalled, chunk + 1);
      tally->copy_ns += NowNs() - start;
      tally->bytes += bytes;
      if (relayed) Announce(slots);
    }
  }
  if (!relayed) Announce(slots);
  ++tally->transfers;
  return true;
}

}  // namespace

bool SendWeights(const Boards& boards, uint32_t self, const StreamOperation& op, StreamWaits* waits,
                 StreamTally* tally) {
  for (uint32_t i = 0; i < op.replicas.size(); ++i) {
    if (SenderOf(op.shape, op.replicas.data(), i) != self) continue;
    const uint64_t start = NowNs();
    if (!waits->Accepted(op.replicas[i].rank, op.set, op.number)) return false;
    tally->wait_ns += NowNs() - start;
    if (!SendOne(boards, self, op, i, waits, tally)) return false;
  }
  return true;
}

uint32_t FirstMissingTransfer(const Boards& boards, uint32_t self, const StreamOperation& op) {
  const uint64_t chunks = boards.layout->chunks;
  for (uint32_t i = 0; i < op.replicas.size(); ++i) {
    const Replica& r = op.replicas[i];
    if (r.rank != self) continue;
    for (uint64_t c = 0; c < chunks; ++c)
      if (boards.chunk_flag(self, op.set, r.slot, c).load(std::memory_order_acquire) != op.number)
        return i;
  }
  return uint32_t(op.replicas.size());
}

}  // namespace ultraep

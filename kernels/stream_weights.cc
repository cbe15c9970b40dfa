#include "kernels/stream_weights.h"

#include <algorithm>

namespace ultraep {
namespace {

// A fence waits until the stores have left the CPU (6 % of the time of one chunk, so not after
// each) and teams shall all have something to do (so not after too many).
constexpr uint64_t kMaxRun = 16, kRunsPerTeam = 4;

}  // namespace

SendQueue::SendQueue(const PlanShape& shape, const Replica* replicas, uint32_t count, uint32_t self,
                     uint64_t chunks, uint32_t teams) {
  std::vector<bool> relayed(count);
  for (uint32_t i = 0; i < count; ++i)
    if (replicas[i].parent >= 0) relayed[size_t(replicas[i].parent)] = true;
  const uint64_t run = std::clamp<uint64_t>(chunks / (kRunsPerTeam * teams), 1, kMaxRun);
  for (uint32_t i = 0; i < count && chunks; ++i) {
    if (SenderOf(shape, replicas, i) != self) continue;
    const Replica& r = replicas[i];
    // A rank has one copy of an expert: the same expert is the same source.
    const bool together =
        !sends_.empty() && sends_.back().expert == r.expert && !sends_.back().relayed;
    if (!together) sends_.push_back({r.expert, r.parent, uint32_t(transfers_.size()), 0, 0, 0, 0});
    Send& send = sends_.back();
    ++send.count;
    send.relayed = relayed[i];
    send.run = uint32_t(send.relayed ? 1 : run);
    transfers_.push_back(i);
  }
  for (Send& send : sends_) {
    send.first_claim = claims_;
    claims_ += (chunks + send.run - 1) / send.run;
  }
}

void SendQueue::Fill(StreamOperation* operation) const {
  operation->sends = sends_.data();
  operation->send_count = uint32_t(sends_.size());
  operation->transfers = transfers_.data();
  operation->claims = claims_;
}

uint32_t FirstMissingTransfer(const SlotView& slots, const Replica* replicas, uint32_t count,
                              uint32_t self, uint32_t set, uint64_t number) {
  for (uint32_t i = 0; i < count; ++i) {
    const Replica& r = replicas[i];
    if (r.rank != self) continue;
    const std::atomic<uint64_t>* flags = slots.chunk_flags(self, set, r.slot);
    for (uint64_t c = 0; c < slots.layout->chunks; ++c)
      if (flags[c].load(std::memory_order_acquire) != number) return i;
  }
  return count;
}

}  // namespace ultraep

#include "daemon/session/trace_tap.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "daemon/memory/memory_file.h"
#include "protocol/boards.h"

namespace ultraep {

uint64_t TraceTap::Capacity(const PlanShape& shape, uint64_t ring_bytes) {
  const uint64_t step = TraceRecordBytes(shape, shape.ranks * shape.slots);
  return std::bit_ceil(std::max(ring_bytes ? ring_bytes : kTraceRingDefault, 2 * step));
}

void TraceTap::Drop() {
  const uint64_t dropped = dropped_.fetch_add(1, std::memory_order_relaxed) + 1;
  ring_->dropped.value.store(dropped, std::memory_order_relaxed);
}

void TraceTap::Empty() {
  // What the file loses reads as zero in every mapping of it. Whole pages only.
  const auto bytes = off_t(RoundUp(sizeof(TraceRing) + capacity_, kSegmentAlign));
  while (fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, bytes))
    if (errno != EINTR) return;
}

std::shared_ptr<TraceTap> TraceTap::Create(const PlanShape& shape, uint64_t ring_bytes,
                                           std::string* wrong) {
  const uint64_t capacity = Capacity(shape, ring_bytes);
  const uint64_t bytes = sizeof(TraceRing) + capacity;
  std::shared_ptr<TraceTap> tap(new TraceTap());
  tap->file_ = MakeMemoryFile("ultraep-trace", bytes);
  if (!tap->file_ || !AllocateMemoryFile(tap->file_.get(), bytes)) {
    *wrong = "a trace ring of " + std::to_string(bytes) + " bytes: " + std::strerror(errno);
    return nullptr;
  }
  *wrong = tap->mapping_.Map(tap->file_.get(), 0, bytes, /*writable=*/true);
  if (!wrong->empty()) return nullptr;
  if (fcntl(tap->file_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
    *wrong = std::string("sealing a trace ring: ") + std::strerror(errno);
    return nullptr;
  }
  tap->ring_ = reinterpret_cast<TraceRing*>(tap->mapping_.base());
  tap->ring_->capacity.value.store(capacity);
  tap->capacity_ = capacity;
  return tap;
}

// Everything is a multiple of 8 bytes long, so that no word is torn at the ring's end.
void TraceTap::Put(uint64_t at, const void* from, uint64_t bytes) {
  AroundRing(capacity_, at, bytes, [&](uint64_t to, uint64_t done, uint64_t count) {
    CopyToShared(ring_->data() + to, static_cast<const unsigned char*>(from) + done, count);
  });
}

void TraceTap::Push(TraceRecord record, LoadView load, const std::vector<Replica>* replicas) {
  const uint64_t load_bytes = uint64_t{load.ranks} * load.experts * 4;
  record.replicas = replicas ? uint32_t(replicas->size()) : 0;
  record.bytes =
      sizeof record + RoundUp(load_bytes, 8) + uint64_t{record.replicas} * sizeof(Replica);
  // Whatever the reader has written there: it can only make its own recording worse.
  const uint64_t used = head_ - ring_->tail.value.load(std::memory_order_acquire);
  if (used > capacity_ || record.bytes > capacity_ - used) {
    Drop();
    return;
  }
  uint64_t at = head_;
  Put(at, &record, sizeof record);
  at += sizeof record;
  Put(at, load.tokens, load_bytes / 8 * 8);
  if (load_bytes % 8) {
    uint64_t last = 0;
    std::memcpy(&last, reinterpret_cast<const unsigned char*>(load.tokens) + load_bytes / 8 * 8, 4);
    Put(at + load_bytes / 8 * 8, &last, 8);
  }
  at += RoundUp(load_bytes, 8);
  if (record.replicas) Put(at, replicas->data(), uint64_t{record.replicas} * sizeof(Replica));
  head_ += record.bytes;
  ring_->head.value.store(head_, std::memory_order_release);
}

}  // namespace ultraep

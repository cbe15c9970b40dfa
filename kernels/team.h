// Who works on one operation together, as stream_weights.h and reduce_gradients.h see it. Those are
// templates over such a team: one thread of the CPU (below), threads with real barriers in tests, a
// block of threads on a GPU. Several teams may share an operation; they claim its pieces.
//
// What a team offers; members number 0 .. size() - 1, all call everything in the same order:
//   rank(), size()
//   Sync()                 what any member did before is seen by all afterwards
//   Elect(f)               one member runs f(), all get its uint64_t; also a Sync
//   Claim(counter)         adds 1, returns what was there; ordered both ways (acquire and release)
//   Copy(to, n, from, b)   all members: b bytes to n places, read once
//   OrderCopies()          all members: their copies come before a Signal after the next Sync
//   Signal(word, value)    a release store that other ranks' processes or GPUs see
//   Now()                  nanoseconds
//   kBlock                 elements that one member adds up at once
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/copy_bytes.h"
#include "protocol/transport/waiting.h"

namespace ultraep {

class SerialTeam {
 public:
  using Counter = std::atomic<uint64_t>;
  static constexpr uint64_t kBlock = 512;  // stays in the first-level cache

  uint32_t rank() const { return 0; }
  uint32_t size() const { return 1; }
  void Sync() {}
  template <class F>
  uint64_t Elect(F f) {
    return f();
  }
  uint64_t Claim(Counter* counter) { return counter->fetch_add(1, std::memory_order_acq_rel); }
  void Copy(void* const* to, uint32_t count, const void* from, uint64_t bytes) {
    CopyNonTemporal(to, count, from, bytes);
  }
  void OrderCopies() { ultraep::OrderCopies(); }
  void Signal(std::atomic<uint64_t>* word, uint64_t value) {
    word->store(value, std::memory_order_release);
  }
  uint64_t Now() const { return NowNs(); }
};

}  // namespace ultraep

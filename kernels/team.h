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
//   Signal(word, value)    a release store that other ranks' processes or GPUs see, of what came
//                          before the last Sync
//   Now()                  nanoseconds; member 0's
//   kBlock                 elements that one member adds up at once
//
// And what the kernels of device/ need beyond, each for one member unless it says otherwise:
//   Acquire(word)          an acquire load of what other ranks or the carrier stored
//   Release(word, value)   a release store of everything that the member did before
//   Exchange(word, a, b)   a becomes b, if it is a; is it so? Ordered both ways
//   Add(place, value)      atomically, on memory that teams share; returns what was there. No order
//   Relax()                between two looks at something that is waited for
//   Prefix(value, &total)  all members: the sum of the values of the members before; also a Sync
//   scratch()              uint32_t memory of the team, as many words as the kernel list says
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/copy_bytes.h"
#include "protocol/transport/waiting.h"

namespace ultraep {

// What every team of the CPU does alike: its words are atomics of memory that processes share.
class HostWords {
 public:
  using Counter = std::atomic<uint64_t>;

  uint64_t Claim(Counter* counter) { return counter->fetch_add(1, std::memory_order_acq_rel); }
  void Signal(std::atomic<uint64_t>* word, uint64_t value) {
    word->store(value, std::memory_order_release);
  }
  uint64_t Now() const { return NowNs(); }
  uint64_t Acquire(const std::atomic<uint64_t>* word) const {
    return word->load(std::memory_order_acquire);
  }
  void Release(std::atomic<uint64_t>* word, uint64_t value) const {
    word->store(value, std::memory_order_release);
  }
  bool Exchange(std::atomic<uint64_t>* word, uint64_t from, uint64_t to) const {
    return word->compare_exchange_strong(from, to, std::memory_order_acq_rel);
  }
  template <class T>
  T Add(T* place, T value) const {
    return __atomic_fetch_add(place, value, __ATOMIC_RELAXED);
  }
  void Relax() const { sched_yield(); }
};

class SerialTeam : public HostWords {
 public:
  static constexpr uint64_t kBlock = 512;  // stays in the first-level cache

  explicit SerialTeam(uint32_t* scratch = nullptr) : scratch_(scratch) {}

  uint32_t rank() const { return 0; }
  uint32_t size() const { return 1; }
  void Sync() {}
  template <class F>
  uint64_t Elect(F f) {
    return f();
  }
  void Copy(void* const* to, uint32_t count, const void* from, uint64_t bytes) {
    CopyNonTemporal(to, count, from, bytes);
  }
  void OrderCopies() { ultraep::OrderCopies(); }
  uint64_t Prefix(uint64_t value, uint64_t* total) const {
    *total = value;
    return 0;
  }
  uint32_t* scratch() const { return scratch_; }

 private:
  uint32_t* const scratch_;
};

}  // namespace ultraep

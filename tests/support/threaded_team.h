// A team of threads with real barriers: the parallel logic of kernels/ runs in it without a GPU,
// and under ThreadSanitizer, which sees its plain copies.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/team.h"

namespace ultraep::test {

class ThreadedTeam : public HostWords {
 public:
  static constexpr uint64_t kBlock = 4;  // as a thread of a GPU would

  struct Shared {
    explicit Shared(uint32_t members, uint32_t scratch_words = 0)
        : size(members), barrier(members), values(members), scratch(scratch_words) {}
    const uint32_t size;
    std::barrier<> barrier;
    uint64_t elected = 0;
    std::vector<uint64_t> values;
    std::vector<uint32_t> scratch;
  };
  ThreadedTeam(Shared* shared, uint32_t rank) : shared_(*shared), rank_(rank) {}

  uint32_t rank() const { return rank_; }
  uint32_t size() const { return shared_.size; }
  void Sync() { shared_.barrier.arrive_and_wait(); }
  template <class F>
  uint64_t Elect(F f) {
    Sync();
    if (rank_ == 0) shared_.elected = f();
    Sync();
    return shared_.elected;
  }
  // Tiles in turn; no size or address is a multiple of the tile's.
  void Copy(void* const* to, uint32_t count, const void* from, uint64_t bytes) {
    constexpr uint64_t kTile = 3001;
    for (uint64_t at = rank_ * kTile; at < bytes; at += size() * kTile)
      for (uint32_t i = 0; i < count; ++i)
        std::memcpy(static_cast<char*>(to[i]) + at, static_cast<const char*>(from) + at,
                    std::min(kTile, bytes - at));
  }
  void OrderCopies() {}
  uint64_t Prefix(uint64_t value, uint64_t* total) {
    Sync();
    shared_.values[rank_] = value;
    Sync();
    uint64_t before = 0;
    *total = 0;
    for (uint32_t m = 0; m < size(); ++m) {
      if (m == rank_) before = *total;
      *total += shared_.values[m];
    }
    return before;
  }
  uint32_t* scratch() { return shared_.scratch.data(); }

 private:
  Shared& shared_;
  const uint32_t rank_;
};

}  // namespace ultraep::test

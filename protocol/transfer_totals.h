// What a rank's transfers and reductions came to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "protocol/words.h"

namespace ultraep {

// One line of 16 words; counted when an operation is over. Times in nanoseconds; copy, add and wait
// are summed over the rank's threads, the other times are the operations' own, from issue to end.
//
//    0       8          16          24           32              40        48
//   +-------+----------+-----------+------------+---------------+---------+--------------+
//   | sends | arrivals | transfers | sent_bytes | relayed_bytes | copy_ns | send_wait_ns |
//   +-------+----------+-----------+------------+---------------+---------+--------------+
//    56        64          72           80         88              96
//   +---------+-----------+------------+----------+---------------+--------+
//   | send_ns | arrive_ns | reductions | replicas | reduced_bytes | add_ns |
//   +---------+-----------+------------+----------+---------------+--------+
//    104              112         120
//   +----------------+-----------+------------+
//   | reduce_wait_ns | reduce_ns | prepare_ns |  128
//   +----------------+-----------+------------+
struct TransferTotals {
  uint64_t sends = 0;          // streams and restores in which this rank sent
  uint64_t arrivals = 0;       // and those that filled slots of it
  uint64_t transfers = 0;      // experts sent
  uint64_t sent_bytes = 0;     // stored into remote slots
  uint64_t relayed_bytes = 0;  // of them: forwarded from own slots
  uint64_t copy_ns = 0;
  uint64_t send_wait_ns = 0;
  uint64_t send_ns = 0;     // of sends, from issue to the last byte sent
  uint64_t arrive_ns = 0;   // of arrivals, from issue to the own slots being seen complete
  uint64_t reductions = 0;  // in which own experts had replicas
  uint64_t replicas = 0;    // whose gradients were added to own main gradients
  uint64_t reduced_bytes = 0;  // of their gradients
  uint64_t add_ns = 0;
  uint64_t reduce_wait_ns = 0;
  uint64_t reduce_ns = 0;   // of reductions, from issue to the own main gradients being complete
  uint64_t prepare_ns = 0;  // waiting for slots' last gradients to be taken, and zeroing

  void Add(const TransferTotals& more) {
    uint64_t sum[kLine / 8], other[kLine / 8];
    std::memcpy(sum, this, kLine);
    std::memcpy(other, &more, kLine);
    for (size_t i = 0; i < kLine / 8; ++i) sum[i] += other[i];
    std::memcpy(this, sum, kLine);
  }
};
static_assert(sizeof(TransferTotals) == kLine && alignof(TransferTotals) == 8,
              "bump kLayoutVersion");
static_assert(offsetof(TransferTotals, reductions) == 72 &&
                  offsetof(TransferTotals, prepare_ns) == 120,
              "bump kLayoutVersion");

}  // namespace ultraep

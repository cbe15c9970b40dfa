// What a rank's steps and transfers came to, on its board for everybody to see.
#pragma once

#include <cstddef>
#include <cstdint>

#include "protocol/latency.h"
#include "protocol/transfer_totals.h"
#include "protocol/words.h"

namespace ultraep {

//    0                128              288     448      608      768       776        784        792
//   +----------------+----------------+-------+--------+--------+---------+----------+----------+--------+
//   | TransferTotals | verdict (160)  | route | stream | reduce | planned | fallback | declined | failed |
//   +----------------+----------------+-------+--------+--------+---------+----------+----------+--------+
//    800: zero                                                                                       896
//
// Relaxed, for people; nobody decides by it.
struct RankStatistics {
  TransferTotals transfers;
  LatencyHistogram verdict;  // from its submit to its knowing the verdict, stragglers included
  LatencyHistogram route;    // logical to physical ids of one step
  LatencyHistogram stream;   // from issue to the own slots being complete
  LatencyHistogram reduce;   // from issue to the own main gradients being complete
  uint64_t planned = 0;      // steps that it resolved, by how
  uint64_t fallback = 0;
  uint64_t declined = 0;     // since the generation before, counted with the next verdict
  uint64_t failed = 0;
  uint64_t zero[12] = {};

  void Add(const RankStatistics& more) {
    transfers.Add(more.transfers);
    verdict.Add(more.verdict);
    route.Add(more.route);
    stream.Add(more.stream);
    reduce.Add(more.reduce);
    planned += more.planned;
    fallback += more.fallback;
    declined += more.declined;
    failed += more.failed;
  }
};
static_assert(sizeof(RankStatistics) == 7 * kLine && alignof(RankStatistics) == 8,
              "bump kLayoutVersion");
static_assert(offsetof(RankStatistics, verdict) == 128 && offsetof(RankStatistics, planned) == 768,
              "bump kLayoutVersion");

}  // namespace ultraep

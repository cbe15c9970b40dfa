// A process of a kill loop that only reads: what all ranks say of every step.
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <vector>

#include "tests/fault/loop_rank.h"

namespace ultraep::test {
namespace {

// Compares what all ranks say of the steps from `from` on; returns where to go on.
uint64_t ReadGroup(SharedState* shared, uint32_t number, uint32_t ranks, uint64_t from) {
  GroupState& group = shared->groups[number];
  const uint64_t end = group.called.load();
  const uint64_t keep = 4096;  // entries of slow ranks come late
  for (uint64_t step = from; step < end; ++step) {
    uint64_t have = 0;
    uint32_t who = 0;
    for (uint32_t r = 0; r < ranks; ++r) {
      const uint64_t word = group.at(step, r).outcome;
      if (word >> 3 != step + 1) continue;
      if (have && Mixed(have, word & 7))
        Violation(shared, "group %u step %lu: the reader sees %s of rank %u and %s of rank %u",
                  number, step, OutcomeName(have), who, OutcomeName(word & 7), r);
      shared->pairs_read.fetch_add(have != 0);
      have = word & 7;
      who = r;
    }
  }
  return end > keep + from ? end - keep : from;
}

}  // namespace

void RunReader(SharedState* shared, uint32_t groups, uint32_t ranks) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<uint64_t> from(groups);
  for (;;) {
    for (uint32_t g = 0; g < groups; ++g) from[g] = ReadGroup(shared, g, ranks, from[g]);
    usleep(20'000);
  }
}

}  // namespace ultraep::test

// Everything that can be chosen about a plan.
#pragma once

#include <cstdint>

namespace ultraep {

struct PlanOptions {
  // How far the peak may stay above the lower bound. Unit: parts per million of the bound, range
  // 0..1'000'000. Smaller values cost replicas (about 15 % more from 10'000 to 5'000 at 64 ranks)
  // and, near 0, solve time.
  uint32_t epsilon_ppm = 5000;

  // Randomised greedy covers tried per stage. Range 1..16, larger values are taken as 16. Each one
  // costs a few microseconds at 64 ranks; more of them save replicas.
  uint32_t variants = 8;

  // Work after which the search stops with the best plan so far. Unit: table entries looked at,
  // about 2 ns each; range 0..2^32-1. Counted rather than timed, so that all machines stop at the
  // same place. Only loads near the limit of what the slots can do come close to it.
  uint32_t work_limit = 500'000;
};

}  // namespace ultraep

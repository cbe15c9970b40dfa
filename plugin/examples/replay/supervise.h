// The parent of the rank processes: starts them, notices the death of one, stops the others.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plugin/examples/replay/shared_state.h"

namespace ultraep::replay {

// What ended early. Times on the monotonic clock.
struct RunOutcome {
  bool interrupted = false;    // SIGINT or SIGTERM came
  bool broken = false;         // a rank said why it could not go on, or could not be started
  bool failed = false;         // a rank got ULTRAEP_FAILED
  std::string start_error;     // not empty: a rank process could not be started
  int dead_rank = -1;          // the first rank that died of a signal or with an unknown status
  int dead_wait_status = 0;    // as from waitpid
  uint64_t dead_sequence = 0;  // step it worked on
  uint64_t dead_ns = 0;        // when the parent noticed
  uint64_t last_stop_ns = 0;   // when the last of the others was gone
};

// Forks shape.ranks processes that each run `rank_main(rank)` and end with its result, and waits
// for all of them. SIGINT and SIGTERM ask the ranks to finish; a second one stops them at their
// next wait. Progress goes to stderr.
RunOutcome RunRanks(SharedState* shared, uint64_t total_steps, uint32_t step_timeout_s,
                    const std::function<int(uint32_t rank)>& rank_main);

}  // namespace ultraep::replay

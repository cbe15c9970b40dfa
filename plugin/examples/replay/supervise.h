// The parent of the rank processes: starts them, notices the death of one, and stops the others or
// starts it again and lets all go on.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plugin/examples/replay/options.h"
#include "plugin/examples/replay/shared_state.h"

namespace ultraep::replay {

// What ended early. Times on the monotonic clock.
struct RunOutcome {
  bool interrupted = false;    // SIGINT or SIGTERM came
  bool broken = false;         // a rank said why it could not go on, or could not be started
  bool failed = false;         // a rank got ULTRAEP_FAILED
  std::string error;           // not empty: a rank could not be started, or did not come back
  int dead_rank = -1;          // the first rank that died and was not respawned
  int dead_wait_status = 0;    // as from waitpid
  uint64_t dead_sequence = 0;  // step it worked on
  uint64_t dead_ns = 0;        // when the parent noticed
  uint64_t last_stop_ns = 0;   // when the last of the others was gone
};

// Forks shape.ranks processes that each run `rank_main(rank)` and end with its result, and waits
// for all of them. SIGINT and SIGTERM ask the ranks to finish; a second one stops them at their
// next wait. With options.respawn a rank that a signal killed is forked again. Progress goes to
// stderr.
RunOutcome RunRanks(const Options& options, SharedState* shared,
                    const std::function<int(uint32_t rank)>& rank_main);

}  // namespace ultraep::replay

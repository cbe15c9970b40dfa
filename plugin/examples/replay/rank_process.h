// One rank's life: attach, join, steps, detach. Knows the balancer through ultraep.h only.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "plugin/examples/replay/loads.h"
#include "plugin/examples/replay/options.h"
#include "plugin/examples/replay/shared_state.h"

namespace ultraep::replay {

// Exit status of a rank process.
enum RankExit : int {
  kRankDone = 0,
  kRankBroken = 1,   // a call was refused or the system said no; the text says what
  kRankFailed = 4,   // ULTRAEP_FAILED
  kRankStopped = 6,  // another rank is gone
};

struct GroupIdentity {
  std::string name;
  std::array<uint8_t, 16> nonce;
};

int RunRank(const Options& options, const GroupIdentity& group, uint32_t rank, LoadSource* loads,
            SharedState* shared);

}  // namespace ultraep::replay

// How many descriptors the daemon needs: what its limits of connections, and doctor's advice,
// follow from.
#pragma once

#include <cstdint>

#include "protocol/message.h"

namespace ultraep {

// A connection costs its socket, a pidfd and, when its rank is a group of its own, the group's four
// and perhaps the ring of its recording. As many may be on their way to a rank that does not read:
// the kernel lets a user without privileges have no more on their way than one process may have
// open.
inline constexpr uint64_t kDescriptorsPerConnection = 3 + kJoinedDescriptors;
// The threads' own, log, lock, and what HTTP clients hold.
inline constexpr uint64_t kDescriptorsOwn = 48;

}  // namespace ultraep

// How many descriptors the daemon needs: what its limits of connections, and doctor's advice,
// follow from.
#pragma once

#include <cstdint>

#include "protocol/message.h"

namespace ultraep {

// A connection costs its socket, a pidfd and, when its rank is a group of its own, the group's five
// (doorbell, two files and, with slots on GPUs, a socket pair until it is sent) and perhaps the
// ring of its recording. Larger groups cost less per rank.
//
// As many may be on their way to ranks that do not read, per connection of a user: the kernel lets
// a user without privileges have no more on their way than one process may have open. A group with
// slots on GPUs sends 4 + ranks to each rank, so some of its ranks wait until others have read
// (AttachServer::SendDue).
inline constexpr uint64_t kDescriptorsPerConnection = 3 + 5;
static_assert(kMaxJoinedDescriptors <= kDescriptorsPerConnection * kMaxDeviceRanks,
              "one rank of the largest group can always be sent its own");
// The threads' own, log, lock, and what HTTP clients hold.
inline constexpr uint64_t kDescriptorsOwn = 48;

}  // namespace ultraep

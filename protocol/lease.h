// Alive or wedged: a heartbeat that stands still for a lease. Daemon and ranks watch each other
// alike.
#pragma once

#include <cstdint>

namespace ultraep {

// Heartbeats are written, and leases looked at, at this pace. No sleep is longer: a winner may die
// between its compare-exchange and the wake, and a lost wake costs one period.
inline constexpr uint64_t kHeartbeatNs = 100'000'000;

// Watches one heartbeat word by the watcher's own clock: what the word says does not matter, only
// that it moves, so neither another time namespace nor a scribbled value extends a lease.
class Lease {
 public:
  // True when the word has not moved for `lease_ns`. A watcher that was itself stopped or starved
  // knows nothing of the time it missed: the lease starts anew.
  bool Expired(uint64_t heartbeat, uint64_t now, uint64_t lease_ns) {
    const bool late = now - looked_ns_ > 3 * kHeartbeatNs;
    if (late || heartbeat != seen_) since_ns_ = now;
    seen_ = heartbeat;
    looked_ns_ = now;
    return now - since_ns_ >= lease_ns;
  }

 private:
  uint64_t seen_ = 0, since_ns_ = 0, looked_ns_ = 0;
};

}  // namespace ultraep

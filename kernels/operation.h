// What streams and reductions have in common: how an operation is numbered.
#pragma once

#include <cstdint>

#include "protocol/digest.h"
#include "protocol/host_device.h"

namespace ultraep {

// An operation's number: how many this generation has had, and a digest of which they were. Two
// ranks with equal numbers are in the same operation after the same history; a rank that missed a
// call or made another one has another number, and no store of it ever meets a slot.
class OperationNumber {
 public:
  static constexpr int kDigestBits = 24;

  static ULTRAEP_HOST_DEVICE uint64_t Make(uint64_t count, uint64_t digest) {
    return count << kDigestBits | (digest & ((1u << kDigestBits) - 1));
  }
  static ULTRAEP_HOST_DEVICE uint64_t Count(uint64_t number) { return number >> kDigestBits; }
  // A word that shows `seen` will never show `number`: its writer is as far or further, elsewhere.
  static ULTRAEP_HOST_DEVICE bool Passed(uint64_t seen, uint64_t number) {
    return seen != number && Count(seen) >= Count(number);
  }
};

enum class OperationKind : uint64_t { kForward = 0, kRestore = 1, kReduce = 2 };

// The operations that a rank has issued in a generation, in their order.
struct OperationHistory {
  uint64_t count = 0;
  Digest which;

  // The next one's number.
  ULTRAEP_HOST_DEVICE uint64_t Issue(uint64_t sequence, OperationKind kind, uint32_t set) {
    which.Add(sequence << 2 | uint64_t(kind));
    which.Add(set);
    return OperationNumber::Make(++count, which.value());
  }
};

}  // namespace ultraep

// What streams and reductions have in common: how an operation is numbered.
#pragma once

#include <cstdint>

namespace ultraep {

// An operation's number: how many this generation has had, and a digest of which they were. Two
// ranks with equal numbers are in the same operation after the same history; a rank that missed a
// call or made another one has another number, and no store of it ever meets a slot.
class OperationNumber {
 public:
  static constexpr int kDigestBits = 24;

  static uint64_t Make(uint64_t count, uint64_t digest) {
    return count << kDigestBits | (digest & ((1u << kDigestBits) - 1));
  }
  static uint64_t Count(uint64_t number) { return number >> kDigestBits; }
  // A word that shows `seen` will never show `number`: its writer is as far or further, elsewhere.
  static bool Passed(uint64_t seen, uint64_t number) {
    return seen != number && Count(seen) >= Count(number);
  }
};

}  // namespace ultraep

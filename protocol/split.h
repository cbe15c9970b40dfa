// The exact split (rule 10): which instance serves which token. Bit for bit the same on every rank,
// host and device, because all of it is integer arithmetic on the recorded load column.
//
// For one replicated expert with instances j (instance 0 is the main copy, the others follow in
// plan order):
//   local_j  = min(L[host_j], quota_j)           the host's own tokens come first
//   rest     = all other tokens, numbered source by source in rank order, n in total
//   number p goes to the instance whose part of [0, n) holds (p * stride) mod n, where instance j
//   owns quota_j - local_j consecutive numbers and stride ~ 0.618 n is coprime to n: a bijection,
//   so both margins are exact, and neighbouring tokens spread over the instances.
// A host whose quota is smaller than its own load keeps the tokens whose ordinal o has
// (o * stride(L)) mod L < local; its other tokens keep their order.
//
// Worked example: column = {6, 2}, home rank 0, one replica on rank 1 with quota 4.
//   quotas 4, 4; local 4, 2; rest = 2 tokens, both of source 0; interval [0,0) main, [0,2) replica.
#pragma once

#include <cstdint>

#include "protocol/host_device.h"

namespace ultraep {

__extension__ typedef unsigned __int128 uint128;

ULTRAEP_HOST_DEVICE constexpr uint64_t Gcd(uint64_t a, uint64_t b) {
  while (b) {
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Smallest integer >= round(0.618 n) that is coprime to n; 1 for n < 2. 0.618: the golden ratio
// spreads every prefix evenly (three-distance theorem).
ULTRAEP_HOST_DEVICE constexpr uint64_t SplitStride(uint64_t n) {
  if (n < 2) return 1;
  uint64_t stride = (618 * n + 500) / 1000;
  while (Gcd(stride, n) != 1) ++stride;
  return stride;
}

ULTRAEP_HOST_DEVICE constexpr uint64_t Permuted(uint64_t p, uint64_t stride, uint64_t n) {
  if (n <= UINT32_MAX) return p * stride % n;  // both factors below 2^32
  return uint64_t(uint128(p) * stride % n);
}

// Sum over i in [0, count) of floor((a * i + b) / m). Euclid-like, O(log m).
// Values stay below 2^128 for count, a, b, m < 2^42.
ULTRAEP_HOST_DEVICE constexpr uint128 FloorSum(uint128 count, uint128 m, uint128 a, uint128 b) {
  uint128 sum = 0;
  while (count > 0) {
    if (a >= m) {
      sum += count * (count - 1) / 2 * (a / m);
      a %= m;
    }
    if (b >= m) {
      sum += count * (b / m);
      b %= m;
    }
    const uint128 top = a * count + b;
    if (top < m) break;
    count = top / m;
    b = top % m;
    const uint128 old = m;
    m = a;
    a = old;
  }
  return sum;
}

// How many p in [0, count) have (p * stride) mod n < bound, for bound <= n.
ULTRAEP_HOST_DEVICE constexpr uint64_t CountBelow(uint64_t count, uint64_t stride, uint64_t n,
                                                  uint64_t bound) {
  if (bound == 0 || count == 0) return 0;
  if (bound >= n) return count;
  return uint64_t(FloorSum(count, n, stride, n) - FloorSum(count, n, stride, n - bound));
}

// One instance of a replicated expert.
struct SplitInstance {
  uint32_t rank = 0;
  uint32_t physical = 0;  // physical expert id
  uint64_t quota = 0;
  uint64_t local = 0;  // tokens of its own host it takes
  uint64_t end = 0;    // its part of [0, pool) ends here and begins where the previous one ends
};

// One source rank's view of the split of one expert.
struct SourceSplit {
  uint64_t own = 0;          // L[source]
  uint64_t own_stride = 1;   // SplitStride(own)
  uint64_t local = 0;        // of its own tokens, those that stay
  uint32_t local_index = 0;  // the instance they stay on (meaningless when local == 0)
  uint64_t first = 0;        // number of this source's first travelling token
  uint64_t pool = 0;         // all travelling tokens
  uint64_t stride = 1;       // SplitStride(pool)
};

// Fills local and end of `instances` (rank and quota are given, quotas sum to the column's sum) and
// returns the size of the pool. `column` has one load per source rank.
ULTRAEP_HOST_DEVICE inline uint64_t BuildSplit(const uint32_t* column, SplitInstance* instances,
                                               uint32_t count) {
  uint64_t pool = 0;
  for (uint32_t j = 0; j < count; ++j) {
    SplitInstance& i = instances[j];
    const uint64_t own = column[i.rank];
    i.local = own < i.quota ? own : i.quota;
    pool += i.quota - i.local;
    i.end = pool;
  }
  return pool;
}

// `before` = sum of the column over sources < source; local tokens of those sources are subtracted
// here.
ULTRAEP_HOST_DEVICE inline SourceSplit SplitForSource(const uint32_t* column, uint32_t source,
                                                      uint64_t before,
                                                      const SplitInstance* instances,
                                                      uint32_t count, uint64_t pool) {
  SourceSplit s;
  s.own = column[source];
  s.own_stride = SplitStride(s.own);
  s.pool = pool;
  s.stride = SplitStride(pool);
  s.first = before;
  for (uint32_t j = 0; j < count; ++j) {
    if (instances[j].rank < source) s.first -= instances[j].local;
    if (instances[j].rank == source) {
      s.local = instances[j].local;
      s.local_index = j;
    }
  }
  return s;
}

// Of the source's tokens with ordinal < `ordinal`, how many travel.
ULTRAEP_HOST_DEVICE inline uint64_t TravelBefore(const SourceSplit& s, uint64_t ordinal) {
  return ordinal - CountBelow(ordinal, s.own_stride, s.own, s.local);
}

ULTRAEP_HOST_DEVICE inline bool StaysLocal(const SourceSplit& s, uint64_t ordinal) {
  return s.local && Permuted(ordinal, s.own_stride, s.own) < s.local;
}

// The instance that serves the travelling token with number s.first + k.
ULTRAEP_HOST_DEVICE inline uint32_t InstanceOfTravelling(const SourceSplit& s, uint64_t k,
                                                         const SplitInstance* instances) {
  const uint64_t place = Permuted(s.first + k, s.stride, s.pool);
  uint32_t j = 0;
  while (instances[j].end <= place) ++j;
  return j;
}

// The instance that serves the source's token with this ordinal (its place among the source's
// tokens for the expert, in batch order). Random access; a sequential caller keeps the travelling
// count itself and calls the two functions above.
ULTRAEP_HOST_DEVICE inline uint32_t InstanceOf(const SourceSplit& s, uint64_t ordinal,
                                               const SplitInstance* instances) {
  if (StaysLocal(s, ordinal)) return s.local_index;
  return InstanceOfTravelling(s, TravelBefore(s, ordinal), instances);
}

// How many of the source's tokens instance j serves. Sums over j and over sources are exact.
ULTRAEP_HOST_DEVICE inline uint64_t TokensToInstance(const SourceSplit& s, uint32_t j,
                                                     const SplitInstance* instances) {
  const uint64_t last = s.first + (s.own - s.local);
  const uint64_t begin = j ? instances[j - 1].end : 0;
  auto below = [&](uint64_t bound) {
    return CountBelow(last, s.stride, s.pool, bound) - CountBelow(s.first, s.stride, s.pool, bound);
  };
  const uint64_t local = s.local && s.local_index == j ? s.local : 0;
  return local + below(instances[j].end) - below(begin);
}

}  // namespace ultraep

// Adds the replicas' gradients of a rank's own experts to its main gradients (training): the home
// pulls, in ascending rank order, so that the sums are the same bits in every run, for any number
// of teams, on CPU and GPU. A template over a team (team.h).
//
//   for every tile of every own expert with replicas elsewhere, claimed by teams:
//     wait until the replicas' ranks have published their gradients
//     main = round(main + slot[lowest rank] + slot[next rank] + ...)    float32 throughout
//   after the last tile: say to each of those slots that its gradient is taken
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/bfloat16.h"
#include "kernels/operation.h"
#include "protocol/host_device.h"
#include "protocol/plan.h"
#include "protocol/slot_board.h"
#include "protocol/test_points.h"

namespace ultraep {

enum class GradientType : uint32_t { kFloat32 = 0, kBfloat16 = 1 };

// An own expert and its replicas elsewhere.
struct Reduction {
  uint32_t expert = 0;  // among this rank's own
  uint32_t first = 0;   // in ReduceOperation::replicas
  uint32_t count = 0;
};

// One reduction of one slot set, the same on all ranks. Plain pointers: host or device memory.
struct ReduceOperation {
  uint64_t number = 0;
  uint32_t set = 0;
  GradientType type = GradientType::kFloat32;
  // Whoever is ready is added first: sums differ in their last bits from run to run. float32 only.
  bool any_order = false;
  const Reduction* reductions = nullptr;
  uint32_t reduction_count = 0;
  const Replica* replicas = nullptr;  // per expert in ascending rank order
  uint32_t replica_count = 0;
  void* const* mains = nullptr;  // [own expert][part], of `type`
};

// Of one team; its member 0's.
struct ReduceTally {
  uint64_t bytes = 0;  // read from slots
  uint64_t add_ns = 0;
  uint64_t wait_ns = 0;

  ULTRAEP_HOST_DEVICE void Add(const ReduceTally& more) {
    bytes += more.bytes;
    add_ns += more.add_ns;
    wait_ns += more.wait_ns;
  }
};

// What rank `self` has to add for a plan.
class ReduceList {
 public:
  ReduceList(const PlanShape& shape, const Replica* replicas, uint32_t count, uint32_t self);
  const std::vector<Replica>& replicas() const { return replicas_; }
  // Into `operation`, which must not outlive the list.
  void Fill(ReduceOperation* operation) const;

 private:
  std::vector<Reduction> reductions_;
  std::vector<Replica> replicas_;
};

// Elements of one slot's gradient; what a team claims.
inline constexpr uint64_t kReduceTile = 64 * 1024;

namespace reduce_internal {

inline ULTRAEP_HOST_DEVICE float Load(const float* at) { return *at; }
inline ULTRAEP_HOST_DEVICE float Load(const Bfloat16* at) { return ToFloat(*at); }
inline ULTRAEP_HOST_DEVICE void Store(float* at, float value) { *at = value; }
inline ULTRAEP_HOST_DEVICE void Store(Bfloat16* at, float value) { *at = ToBfloat16(value); }

// Some replicas of one expert, in ascending rank order.
struct Chosen {
  static constexpr uint64_t kAll = ~uint64_t{0};
  const Replica* replicas = nullptr;
  uint32_t count = 0;
  uint64_t mask = kAll;  // of the first 64; kAll: of all, however many

  ULTRAEP_HOST_DEVICE bool has(uint32_t i) const { return mask == kAll || mask >> i & 1; }
};

// Where the gradients of the first chosen replicas lie, found once for many elements: a GPU's
// thread adds so few at once that looking the addresses up would cost more.
struct Addends {
  static constexpr uint32_t kMost = 8;
  const float* at[kMost] = {};
  uint32_t count = 0;
  uint32_t rest = 0;  // chosen replicas from this one on have no place here

  ULTRAEP_HOST_DEVICE Addends(const SlotView& slots, uint32_t set, const Chosen& chosen,
                              uint32_t part) {
    for (uint32_t i = 0; i < kMost; ++i) {  // constant indices: they stay in registers
      while (rest < chosen.count && !chosen.has(rest)) ++rest;
      if (rest == chosen.count) continue;
      const Replica& r = chosen.replicas[rest++];
      at[i] = slots.gradient(r.rank, set, r.slot, part);
      count = i + 1;
    }
  }
};

// A block whose address is a multiple of its size, as one access of a GPU's thread.
template <uint64_t kSize, class T>
struct alignas(kSize * sizeof(T)) Vector {
  T at[kSize];
};

// Adds the chosen replicas from `first` on to elements [at, at + kSize) of one part.
template <uint64_t kSize>
ULTRAEP_HOST_DEVICE void AddTo(float (&sum)[kSize], const SlotView& slots, uint32_t set,
                               const Chosen& chosen, uint32_t first, uint32_t part, uint64_t at) {
  for (uint32_t c = first; c < chosen.count; ++c) {
    if (!chosen.has(c)) continue;
    const Replica& r = chosen.replicas[c];
    const float* gradient = slots.gradient(r.rank, set, r.slot, part) + at;
    for (uint64_t i = 0; i < kSize; ++i) sum[i] += gradient[i];
  }
}

// Elements [at, at + kSize) of one part: main += every chosen replica's. A constant size, so that
// compilers unroll it.
template <uint64_t kSize, class Main>
ULTRAEP_HOST_DEVICE void AddBlock(const SlotView& slots, uint32_t set, const Chosen& chosen,
                                  uint32_t part, uint64_t at, Main* main) {
  float sum[kSize];
  for (uint64_t i = 0; i < kSize; ++i) sum[i] = Load(main + at + i);
  AddTo(sum, slots, set, chosen, 0, part, at);
  for (uint64_t i = 0; i < kSize; ++i) Store(main + at + i, sum[i]);
}

// The same where mains and gradients are vectors: all loads are under way before the first sum.
template <uint64_t kSize, class Main>
ULTRAEP_HOST_DEVICE void AddVector(const SlotView& slots, uint32_t set, const Chosen& chosen,
                                   uint32_t part, const Addends& addends, uint64_t at, Main* main) {
  float sum[kSize];
  auto* const place = reinterpret_cast<Vector<kSize, Main>*>(main + at);
  Vector<kSize, Main> own = *place;
  Vector<kSize, float> held[Addends::kMost];
  for (uint32_t c = 0; c < Addends::kMost; ++c)
    if (c < addends.count)
      held[c] = *reinterpret_cast<const Vector<kSize, float>*>(addends.at[c] + at);
  for (uint64_t i = 0; i < kSize; ++i) sum[i] = Load(own.at + i);
  for (uint32_t c = 0; c < Addends::kMost; ++c)
    for (uint64_t i = 0; i < kSize; ++i)
      if (c < addends.count) sum[i] += held[c].at[i];
  AddTo(sum, slots, set, chosen, addends.rest, part, at);
  for (uint64_t i = 0; i < kSize; ++i) Store(own.at + i, sum[i]);
  *place = own;
}

template <class Team, class Main>
ULTRAEP_HOST_DEVICE void AddRange(Team& team, const SlotView& slots, uint32_t set,
                                  const Chosen& chosen, uint32_t part, uint64_t from, uint64_t to,
                                  Main* main) {
  constexpr uint64_t kBlock = Team::kBlock;
  const uint64_t whole = from + (to - from) / kBlock * kBlock;
  uint64_t at = from + team.rank() * kBlock;
  if constexpr (kBlock <= 8) {
    // A slot's parts start on lines, so gradients are aligned where their indices are.
    if (from % kBlock == 0 && reinterpret_cast<uintptr_t>(main) % (kBlock * sizeof(Main)) == 0) {
      const Addends addends(slots, set, chosen, part);
      for (; at < whole; at += team.size() * kBlock)
        AddVector<kBlock>(slots, set, chosen, part, addends, at, main);
    }
  }
  for (; at < whole; at += team.size() * kBlock)
    AddBlock<kBlock>(slots, set, chosen, part, at, main);
  for (at = whole + team.rank(); at < to; at += team.size())
    AddBlock<1>(slots, set, chosen, part, at, main);
}

// Elements [begin, end) of one expert's gradient, through the parts they lie in. Not inlined: for a
// device, registers of the callers and of the loops below then do not compete.
template <class Team>
ULTRAEP_HOST_DEVICE __attribute__((noinline)) void AddTile(Team& team, const SlotView& slots,
                                                           const ReduceOperation& op,
                                                           uint32_t expert, const Chosen& chosen,
                                                           uint64_t begin, uint64_t end) {
  const SlotLayout& layout = *slots.layout;
  uint64_t part_at = 0;
  for (uint32_t part = 0; part < layout.gradient_count; ++part) {
    const uint64_t part_end = part_at + layout.gradient_elements[part];
    const uint64_t from = begin > part_at ? begin : part_at;
    const uint64_t to = end < part_end ? end : part_end;
    void* main = op.mains[uint64_t{expert} * layout.gradient_count + part];
    if (from < to && op.type == GradientType::kFloat32)
      AddRange(team, slots, op.set, chosen, part, from - part_at, to - part_at,
               static_cast<float*>(main));
    else if (from < to)
      AddRange(team, slots, op.set, chosen, part, from - part_at, to - part_at,
               static_cast<Bfloat16*>(main));
    part_at = part_end;
  }
}

// One tile; false when a wait failed.
template <class Team, class Waits>
ULTRAEP_HOST_DEVICE bool ReduceTile(Team& team, Waits& waits, const SlotView& slots,
                                    const ReduceOperation& op, const Reduction& r, uint64_t begin,
                                    uint64_t end, ReduceTally* tally) {
  const Replica* const all = op.replicas + r.first;
  const auto add = [&](const Chosen& chosen) {
    const uint64_t start = team.Now();
    ULTRAEP_POINT("gradient:before");
    AddTile(team, slots, op, r.expert, chosen, begin, end);
    ULTRAEP_POINT("gradient:added");
    tally->add_ns += team.Now() - start;
  };
  // Added one by one, small gradients would vanish in the rounding of a bfloat16.
  const bool together = !op.any_order || op.type == GradientType::kBfloat16;
  constexpr uint32_t kBatch = 64;  // as many as a mask has bits
  for (uint32_t at = 0; at < r.count; at += kBatch) {
    const uint32_t count = r.count - at < kBatch ? r.count - at : kBatch;
    uint64_t pending = count == kBatch ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    while (pending) {
      const uint64_t start = team.Now();
      const uint64_t ready =
          team.Elect([&] { return waits.Gradients(all + at, pending, together); });
      tally->wait_ns += team.Now() - start;
      if (!ready) return false;
      if (!together) add({all + at, count, ready});
      pending &= ~ready;
    }
  }
  if (together) add({all, r.count, Chosen::kAll});
  tally->bytes += r.count * (end - begin) * sizeof(float);
  return true;
}

}  // namespace reduce_internal

// Waits: how the caller waits and wakes; member 0 calls it.
//   uint64_t Gradients(replicas, pending, all)   until those (all), or one (not all), of the
//   replicas
//       whose bits are set in `pending` have their gradients of this very reduction in their slots;
//       which are there, 0 when that will never be
//   void Announce(rank)   something has come into that rank's slots
// next, done: the teams' common claim and the claims that are over; 0 at first. False when a wait
// failed: the main gradients of some tiles then lack theirs.
template <class Team, class Waits>
ULTRAEP_HOST_DEVICE bool ReduceGradients(Team& team, Waits& waits, const SlotView& slots,
                                         const ReduceOperation& op, typename Team::Counter* next,
                                         typename Team::Counter* done, ReduceTally* tally) {
  const uint64_t elements = slots.layout->elements();
  const uint64_t tiles = (elements + kReduceTile - 1) / kReduceTile;
  const uint64_t claims = tiles * op.reduction_count;
  for (;;) {
    const uint64_t claim = team.Elect([&] { return team.Claim(next); });
    if (claim >= claims) return true;
    const uint64_t begin = claim % tiles * kReduceTile;
    const uint64_t end = begin + kReduceTile < elements ? begin + kReduceTile : elements;
    if (!reduce_internal::ReduceTile(team, waits, slots, op, op.reductions[claim / tiles], begin,
                                     end, tally))
      return false;
    team.Sync();
    if (team.Elect([&] { return team.Claim(done); }) + 1 < claims || team.rank() != 0) continue;
    for (uint32_t i = 0; i < op.replica_count; ++i) {
      const Replica& r = op.replicas[i];
      ULTRAEP_POINT("taken:before");
      team.Signal(&slots.gradient_words(r.rank, op.set, r.slot).taken.value, op.number);
      ULTRAEP_POINT("taken:set");
      waits.Announce(r.rank);
    }
  }
}

}  // namespace ultraep

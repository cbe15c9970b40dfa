// Counts what a rank's gate has chosen and submits the row: blocks count into scratch of their own,
// add that up in the state, and the last one writes the row into the mailbox.
#pragma once

#include <cstdint>

#include "kernels/device/watch.h"

namespace ultraep::device {
namespace internal {

// Sixteen bytes at once.
template <class T>
struct alignas(16) Wide {
  static constexpr uint32_t kSize = 16 / sizeof(T);
  T at[kSize];
};

// visit(index, value) for every value of from[count], all blocks together. The rest of what does
// not fill a Wide, or everything where `from` is not aligned, one by one.
template <class Team, class T, class Visit>
ULTRAEP_HOST_DEVICE void ForEach(Team& team, Block block, const T* from, uint64_t count,
                                 const Visit& visit) {
  constexpr uint32_t kSize = Wide<T>::kSize;
  const uint64_t first = uint64_t{block.index} * team.size() + team.rank();
  const uint64_t step = uint64_t{block.count} * team.size();
  const uint64_t wide = reinterpret_cast<uintptr_t>(from) % 16 ? 0 : count / kSize;
  for (uint64_t i = first; i < wide; i += step) {
    const Wide<T> held = reinterpret_cast<const Wide<T>*>(from)[i];
    for (uint32_t k = 0; k < kSize; ++k) visit(i * kSize + k, held.at[k]);
  }
  for (uint64_t i = wide * kSize + first; i < count; i += step) visit(i, from[i]);
}

template <class Team>
ULTRAEP_HOST_DEVICE void Clear(Team& team, uint32_t* words, uint32_t count) {
  for (uint32_t i = team.rank(); i < count; i += team.size()) words[i] = 0;
}

// What the team's scratch has counted, into `counts`. True for the last block, which then sees all.
template <class Team>
ULTRAEP_HOST_DEVICE bool AddUp(Team& team, Block block, uint32_t experts, uint32_t* counts,
                               unsigned long long* ticket) {
  const uint32_t* const own = team.scratch();
  team.Sync();
  for (uint32_t e = team.rank(); e < experts; e += team.size())
    if (own[e]) team.Add(&counts[e], own[e]);
  return team.Elect([&] { return team.Claim(AsCounter<Team>(ticket)); }) + 1 == block.count;
}

template <class Team>
ULTRAEP_HOST_DEVICE void NoteFault(Team& team, DeviceState& state, uint64_t index) {
  team.Add(&state.faults, uint64_t{1});
  for (;;) {
    const uint64_t seen = team.Acquire(AsWord(&state.fault_index));
    if (seen && seen <= index + 1) return;
    if (team.Exchange(AsWord(&state.fault_index), seen, index + 1)) return;
  }
}

// Of the last block: the next step's row, from `row`. All members.
template <class Team>
ULTRAEP_HOST_DEVICE void Submit(Team& team, const CountArguments& a, Kernel kernel,
                                const uint32_t* row) {
  DeviceState& state = *a.state;
  const uint64_t sequence = state.next;
  MailboxRow& out = state.mailbox.row(sequence);
  uint64_t sum = 0, tokens = 0;
  // The ring's entry may still be read when as many steps as it holds are open.
  const bool free = team.Elect([&] {
    if (sequence - state.resolved >= state.window) return uint64_t{0};
    // An await that gave up has let this rank run ahead of its carrier.
    return uint64_t{!state.late ||
                    sequence - team.Acquire(&state.mailbox.head().taken.value) < state.window};
  });
  for (uint32_t e = team.rank(); e < state.experts; e += team.size()) {
    if (free) out.row()[e] = row[e];
    sum += row[e];
  }
  team.Prefix(sum, &tokens);
  if (team.rank() == 0 && !free) RaiseOrder(team, state, PresentMemory(state), kernel, sequence);
  if (team.rank() == 0 && free) {
    out.sequence = sequence;
    out.layer = a.layer;
    out.microbatch = a.microbatch;
    out.tokens = tokens;
    out.faults = state.faults;
    out.fault_index = state.faults ? state.fault_index - 1 : 0;
    out.fault_value = state.faults ? static_cast<const int32_t*>(a.from)[state.fault_index - 1] : 0;
  }
  team.Sync();
  if (team.rank() != 0) return;
  state.ticket = 0;
  state.faults = 0;
  state.fault_index = 0;
  if (!free) return;
  team.Signal(&out.stamp.value, sequence + 1);
  state.next = sequence + 1;
}

}  // namespace internal

template <class Team>
ULTRAEP_HOST_DEVICE void CountIds(Team& team, Block block, const CountArguments& a) {
  namespace in = internal;
  DeviceState& state = *a.state;
  in::Clear(team, team.scratch(), state.experts);
  team.Sync();
  in::ForEach(team, block, static_cast<const int32_t*>(a.from), a.count,
              [&](uint64_t index, int32_t id) {
                if (uint32_t(id) < state.experts)
                  team.Add(&team.scratch()[id], 1u);
                else if (id != -1)
                  in::NoteFault(team, state, index);
              });
  if (!in::AddUp(team, block, state.experts, state.counts, &state.ticket)) return;
  in::Submit(team, a, Kernel::kCountIds, state.counts);
  in::Clear(team, state.counts, state.experts);
}

template <class Team>
ULTRAEP_HOST_DEVICE void CountMap(Team& team, Block block, const CountArguments& a) {
  namespace in = internal;
  DeviceState& state = *a.state;
  in::Clear(team, team.scratch(), state.experts);
  team.Sync();
  in::ForEach(team, block, static_cast<const uint8_t*>(a.from), a.count * state.experts,
              [&](uint64_t index, uint8_t chosen) {
                if (chosen) team.Add(&team.scratch()[index % state.experts], 1u);
              });
  if (!in::AddUp(team, block, state.experts, state.counts, &state.ticket)) return;
  in::Submit(team, a, Kernel::kCountMap, state.counts);
  in::Clear(team, state.counts, state.experts);
}

// One block.
template <class Team>
ULTRAEP_HOST_DEVICE void SubmitRow(Team& team, Block, const CountArguments& a) {
  internal::Submit(team, a, Kernel::kSubmitRow, static_cast<const uint32_t*>(a.from));
}

}  // namespace ultraep::device

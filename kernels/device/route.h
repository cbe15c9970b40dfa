// Maps logical experts to physical ones, bit for bit as TokenRouter does (route_tokens.h,
// protocol/split.h), with all members of all blocks.
//
//   replicated experts   a block walks all tokens of one in order: members count their own runs, a
//                        prefix over the members gives each token its ordinal, and a second one
//                        numbers those that travel
//   the others           to their main copies, all blocks together
//   counts               of everything, added up in the plan; the last block compares them with the
//                        row that was submitted
#pragma once

#include <cstdint>

#include "kernels/device/count.h"
#include "kernels/device/watch.h"
#include "protocol/split.h"

namespace ultraep::device {
namespace internal {

inline constexpr uint32_t kNoInstance = UINT32_MAX;

// Walks tokens 0 .. count - 1 in order. chosen(i): is i a token of the column's expert?
// place(i, j): it goes to instance j; kNoInstance: it is not one of them. All members.
template <class Team, class Chosen, class Put>
ULTRAEP_HOST_DEVICE void WalkColumn(Team& team, const SourceSplit& s,
                                    const SplitInstance* instances, uint64_t count,
                                    const Chosen& chosen, const Put& put) {
  constexpr uint32_t kRun = 16;  // tokens of one member, side by side
  uint64_t ordinal = 0, travelled = 0;
  for (uint64_t begin = 0; begin < count; begin += uint64_t{kRun} * team.size()) {
    const uint64_t from = begin + uint64_t{kRun} * team.rank();
    const uint32_t run = from >= count ? 0 : count - from < kRun ? uint32_t(count - from) : kRun;
    uint32_t mine = 0, matches = 0;
    for (uint32_t k = 0; k < run; ++k)
      if (chosen(from + k)) {
        mine |= 1u << k;
        ++matches;
      }
    uint64_t total, travellers;
    uint64_t next = ordinal + team.Prefix(matches, &total);
    uint32_t stay = 0, leaving = 0;
    for (uint32_t k = 0; k < run; ++k)
      if (mine >> k & 1) {
        if (StaysLocal(s, next++))
          stay |= 1u << k;
        else
          ++leaving;
      }
    uint64_t number = travelled + team.Prefix(leaving, &travellers);
    for (uint32_t k = 0; k < run; ++k) {
      if (!(mine >> k & 1))
        put(from + k, kNoInstance);
      else if (stay >> k & 1)
        put(from + k, s.local_index);
      else  // no pool: the ids are not those of the row, which the counts will show
        put(from + k, s.pool ? InstanceOfTravelling(s, number++, instances) : 0);
    }
    ordinal += total;
    travelled += travellers;
  }
}

// The last block: do the counts make the submitted row? Zero again for the plan's next routing.
template <class Team>
ULTRAEP_HOST_DEVICE void CompareCounts(Team& team, DeviceState& state, const PlanView& view) {
  const PlanImageHead& head = view.head();
  uint32_t* const counts = view.counts();
  for (uint32_t e = team.rank(); e < state.experts; e += team.size()) {
    if (head.row_at && counts[e] != view.image().row()[e])
      RaiseFailure(team, state, PresentMemory(state), DeviceFailure::kCountsDiffer, e, counts[e],
                   head.sequence);
    counts[e] = 0;
  }
  if (team.rank() != 0) return;
  *view.count_ticket(state.experts) = 0;
  ++view.plan.routed;
}

// The column of an expert, kNoColumn: its main copy takes all its tokens.
inline ULTRAEP_HOST_DEVICE uint32_t ColumnOf(const PlanImageView& image, uint32_t expert) {
  return image.head().column_count ? image.column_of()[expert] : kNoColumn;
}

}  // namespace internal

template <class Team>
ULTRAEP_HOST_DEVICE void RouteIds(Team& team, Block block, const RouteArguments& a) {
  namespace in = internal;
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  const PlanImageView image = view.image();
  const PhysicalIds numbering{state.experts_per_rank, state.slots};
  in::Clear(team, team.scratch(), state.experts);
  team.Sync();
  in::ForEach(team, block, a.ids, a.count, [&](uint64_t i, int32_t id) {
    if (uint32_t(id) >= state.experts) {
      a.physical[i] = -1;
      if (id != -1)
        RaiseFailure(team, state, PresentMemory(state), DeviceFailure::kBadId, i,
                     uint64_t(int64_t{id}), image.head().sequence);
      return;
    }
    team.Add(&team.scratch()[id], 1u);
    if (in::ColumnOf(image, uint32_t(id)) == kNoColumn)
      a.physical[i] = int32_t(numbering.main(uint32_t(id)));
  });
  for (uint32_t c = block.index; c < image.head().column_count; c += block.count) {
    const ColumnSplit& column = image.columns()[c];
    const SplitInstance* const instances = image.instances() + column.first_instance;
    in::WalkColumn(
        team, column.source, instances, a.count,
        [&](uint64_t i) { return a.ids[i] == int32_t(column.expert); },
        [&](uint64_t i, uint32_t j) {
          if (j != in::kNoInstance) a.physical[i] = int32_t(instances[j].physical);
        });
  }
  if (in::AddUp(team, block, state.experts, view.counts(), view.count_ticket(state.experts)))
    in::CompareCounts(team, state, view);
}

namespace internal {

// A dense map's entry and the value beside it, from `from` to `to`; 0 when it is not chosen.
struct MapCopy {
  const RouteMapArguments& a;

  template <class T>
  ULTRAEP_HOST_DEVICE void Value(uint64_t to, uint64_t from, bool chosen) const {
    static_cast<T*>(a.physical_values)[to] = chosen ? static_cast<const T*>(a.values)[from] : T{0};
  }
  ULTRAEP_HOST_DEVICE void operator()(uint64_t to, uint64_t from, bool chosen) const {
    a.physical_map[to] = chosen;
    if (a.value_bytes == 4) Value<uint32_t>(to, from, chosen);
    if (a.value_bytes == 2) Value<uint16_t>(to, from, chosen);
  }
};

// Everything that no column writes: mains without replicas, and 0 for slots that hold nothing.
// Scratch has a mask of the used slots for each rank.
template <class Team>
ULTRAEP_HOST_DEVICE void RouteMains(Team& team, Block block, const RouteMapArguments& a,
                                    const PlanImageView& image) {
  const DeviceState& state = *a.state;
  const MapCopy copy{a};
  const uint32_t per_rank = state.experts_per_rank + state.slots;
  const uint32_t width = state.ranks * per_rank;
  for (uint64_t token = block.index; token < a.tokens; token += block.count)
    for (uint32_t p = team.rank(); p < width; p += team.size()) {
      const uint32_t rank = p / per_rank, place = p % per_rank;
      const uint64_t to = token * width + p;
      if (place >= state.experts_per_rank) {
        if (!(team.scratch()[rank] >> (place - state.experts_per_rank) & 1)) copy(to, 0, false);
        continue;
      }
      const uint32_t expert = rank * state.experts_per_rank + place;
      if (ColumnOf(image, expert) != kNoColumn) continue;
      const uint64_t from = token * state.experts + expert;
      copy(to, from, a.map[from]);
    }
}

template <class Team>
ULTRAEP_HOST_DEVICE void RouteMapColumn(Team& team, const RouteMapArguments& a,
                                        const PlanImageView& image, const ColumnSplit& column) {
  const DeviceState& state = *a.state;
  const MapCopy copy{a};
  const uint64_t width = uint64_t{state.ranks} * (state.experts_per_rank + state.slots);
  const SplitInstance* const instances = image.instances() + column.first_instance;
  const auto from = [&](uint64_t token) { return token * state.experts + column.expert; };
  WalkColumn(
      team, column.source, instances, a.tokens, [&](uint64_t token) { return a.map[from(token)]; },
      [&](uint64_t token, uint32_t chosen) {
        for (uint32_t j = 0; j < column.instances; ++j)
          copy(token * width + instances[j].physical, from(token), j == chosen);
      });
}

// Scratch: for each rank, which of its slots a column writes.
template <class Team>
ULTRAEP_HOST_DEVICE void MarkSlots(Team& team, const DeviceState& state,
                                   const PlanImageView& image) {
  const PhysicalIds numbering{state.experts_per_rank, state.slots};
  Clear(team, team.scratch(), state.ranks);
  team.Sync();
  for (uint32_t i = team.rank(); i < image.head().instance_count; i += team.size()) {
    const uint32_t physical = image.instances()[i].physical;
    const uint32_t place = physical % numbering.per_rank();
    if (place >= state.experts_per_rank)  // each slot once: adding sets its bit
      team.Add(&team.scratch()[numbering.rank(physical)], 1u << (place - state.experts_per_rank));
  }
  team.Sync();
}

}  // namespace internal

template <class Team>
ULTRAEP_HOST_DEVICE void RouteMap(Team& team, Block block, const RouteMapArguments& a) {
  namespace in = internal;
  DeviceState& state = *a.state;
  const PlanView view(state, a.plan);
  const PlanImageView image = view.image();
  in::MarkSlots(team, state, image);
  in::RouteMains(team, block, a, image);
  for (uint32_t c = block.index; c < image.head().column_count; c += block.count)
    in::RouteMapColumn(team, a, image, image.columns()[c]);
  team.Sync();
  in::Clear(team, team.scratch(), state.experts);
  team.Sync();
  in::ForEach(team, block, a.map, a.tokens * state.experts, [&](uint64_t index, uint8_t chosen) {
    if (chosen) team.Add(&team.scratch()[index % state.experts], 1u);
  });
  if (in::AddUp(team, block, state.experts, view.counts(), view.count_ticket(state.experts)))
    in::CompareCounts(team, state, view);
}

}  // namespace ultraep::device

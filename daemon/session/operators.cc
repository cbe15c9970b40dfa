#include "daemon/session/operators.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/memory/system_memory.h"
#include "protocol/transport/seqpacket.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

// Of one answer: what a socket's buffer takes without waiting for its reader. The kernel counts
// some four kilobytes for a group, and one for an event.
constexpr uint32_t kGroupsPerAnswer = 32;
constexpr size_t kEventsPerAnswer = 64;
// Verdicts of closed groups that are kept for a connection.
constexpr size_t kPendingMost = 128;
// Of all recordings together, and of one user's; beyond what groups hold.
constexpr uint64_t kAllRingsMost = uint64_t{512} << 20, kUserRingsMost = uint64_t{256} << 20;
// How long a reader may take for the rest of a recording whose group is closed.
constexpr uint64_t kReadRestNs = 60'000'000'000;

const VerdictRing& RingOf(const StepStatistics& statistics, const OperatorState& state) {
  return state.verdicts ? statistics.verdicts() : statistics.fallbacks();
}

}  // namespace

bool Operators::SeesAll(uid_t uid) { return uid == 0 || uid == geteuid(); }

void Operators::Fill(StatusDaemon* daemon) const {
  daemon->max_connections = options_.max_connections;
  daemon->metrics_port = view_->metrics_port();
  daemon->lease_ns = options_.lease_ns;
  daemon->memory_bytes = groups_.memory_bytes();
  daemon->memory_limit_bytes = options_.memory_limit_bytes;
  daemon->cost_token_ps = options_.plan.cost.token;
  daemon->trace_dropped = trace_dropped_;
  daemon->events_dropped = events_dropped_;
  for (const Ring& ring : rings_) {
    const auto tap = ring.tap.lock();
    if (!tap || ring.ended) continue;
    ++daemon->traces;
    daemon->trace_dropped += tap->dropped();
  }
}

bool Operators::Status(int socket, uid_t uid, const StatusRequest& request,
                       const StatusDaemon& daemon) const {
  std::vector<const Group*> seen;
  for (const auto& [key, group] : groups_.all())
    if (Sees(uid, key)) seen.push_back(group.get());
  StatusDaemon head = daemon;
  head.groups = uint32_t(seen.size());
  bool sent = SendMessage(socket, head, nullptr, 0, MSG_DONTWAIT);
  const uint32_t first = std::min(request.first, head.groups);
  const uint32_t last = std::min(head.groups, first + kGroupsPerAnswer);
  for (uint32_t g = first; g < last && sent; ++g)
    sent = SendMessage(socket, seen[g]->Source().Status(), nullptr, 0, MSG_DONTWAIT);
  StatusEnd end;
  end.next = last < head.groups ? last : 0;
  return sent && SendMessage(socket, end, nullptr, 0, MSG_DONTWAIT);
}

// A group that came after the first request is followed from its first step.
void Operators::Follow(uid_t uid, bool from_now, OperatorState* state) const {
  for (const auto& [key, group] : groups_.all()) {
    if (!Sees(uid, key)) continue;
    const auto& statistics = group->shared_statistics();
    const uint64_t begin = from_now ? RingOf(*statistics, *state).pushed() : 0;
    state->followed.try_emplace(statistics, OperatorState::Followed{group->config(), begin});
  }
}

// Returns how many were missed.
uint64_t Operators::ReadVerdicts(OperatorState* state, size_t most,
                                 std::vector<Event>* events) const {
  uint64_t missed = std::exchange(state->missed, 0);
  const size_t old = std::min(most, state->pending.size());
  events->insert(events->end(), state->pending.begin(), state->pending.begin() + ptrdiff_t(old));
  state->pending.erase(state->pending.begin(), state->pending.begin() + ptrdiff_t(old));
  most -= old;
  for (auto& [statistics, followed] : state->followed) {
    std::vector<StepVerdict> verdicts;
    missed += RingOf(*statistics, *state).Read(&followed.cursor, most, &verdicts);
    for (const StepVerdict& verdict : verdicts)
      events->push_back(VerdictEvent(verdict, followed.group));
    most -= verdicts.size();
  }
  return missed;
}

void Operators::Forget(const Group& group, OperatorState* state) const {
  const auto at = state->followed.find(group.shared_statistics());
  if (at == state->followed.end()) return;
  const VerdictRing& ring = RingOf(*at->first, *state);
  const size_t room = kPendingMost - std::min(kPendingMost, state->pending.size());
  uint64_t& cursor = at->second.cursor;
  if (ring.pushed() > cursor + room) {  // the last ones say more
    state->missed += ring.pushed() - room - cursor;
    cursor = ring.pushed() - room;
  }
  std::vector<StepVerdict> verdicts;
  state->missed += ring.Read(&cursor, room, &verdicts);
  for (const StepVerdict& verdict : verdicts)
    state->pending.push_back(VerdictEvent(verdict, at->second.group));
  state->followed.erase(at);
}

bool Operators::Events(int socket, uid_t uid, const EventsRequest& request, OperatorState* state) {
  const bool first = !state->follows;
  const bool from_now = first && !(request.flags & EventsRequest::kHistory);
  if (first) state->verdicts = request.flags & EventsRequest::kVerdicts;
  if (from_now) view_->events().Skip(uid, SeesAll(uid), &state->log);
  std::vector<Event> events;
  EventsEnd end;
  // Half for each, so that a long log does not keep the verdicts waiting.
  uint64_t missed =
      view_->events().Read(uid, SeesAll(uid), kEventsPerAnswer / 2, &state->log, &events);
  Follow(uid, from_now, state);
  const size_t logged = events.size();
  missed += ReadVerdicts(state, kEventsPerAnswer - logged, &events);
  end.more = logged == kEventsPerAnswer / 2 || events.size() == kEventsPerAnswer;
  if (!first) end.missed = missed;  // what was never asked for is not missed
  events_dropped_ += end.missed;
  state->follows = true;
  std::stable_sort(events.begin(), events.end(),
                   [](const Event& a, const Event& b) { return a.time_ns < b.time_ns; });
  bool sent = true;
  for (const Event& event : events)
    if (sent) sent = SendMessage(socket, event, nullptr, 0, MSG_DONTWAIT);
  return sent && SendMessage(socket, end, nullptr, 0, MSG_DONTWAIT);
}

std::shared_ptr<Group> Operators::GroupToTrace(uid_t uid, const std::string& name,
                                               Refusal* refusal) const {
  std::shared_ptr<Group> found;
  std::string names;
  uint32_t count = 0;
  for (const auto& [key, group] : groups_.all()) {
    if (!Sees(uid, key)) continue;
    names += (names.empty() ? "" : ", ") + key.name;
    if (!name.empty() && key.name != name) continue;
    found = group;
    ++count;
  }
  if (count == 1) return found;
  const std::string there = names.empty() ? "there are none" : "there are: " + names;
  if (count == 0)
    refusal->text =
        (name.empty() ? "no group can be recorded; " : "no group '" + name + "'; ") + there;
  else
    refusal->text = name.empty() ? "which group? " + there
                                 : std::to_string(count) + " groups are named '" + name + "'";
  return nullptr;
}

Refusal Operators::CheckRing(uid_t uid, uint64_t bytes) const {
  uint64_t all = 0, own = 0;
  for (const Ring& ring : rings_)
    if (const auto tap = ring.tap.lock()) {
      all += tap->capacity();
      own += ring.uid == uid ? tap->capacity() : 0;
    }
  const auto mib = [](uint64_t count) { return std::to_string(count >> 20) + " MiB"; };
  const std::string fix = "; end one, or take a smaller ring";
  if (own + bytes > kUserRingsMost)
    return {"recordings of uid " + std::to_string(uid) + " have " + mib(own) +
                " of rings, this is " + mib(bytes) + ", the limit is " + mib(kUserRingsMost) + fix,
            true, RefusalKind::kOperator};
  if (all + bytes > kAllRingsMost)
    return {"recordings have " + mib(all) + " of rings, this is " + mib(bytes) + ", the limit is " +
                mib(kAllRingsMost) + fix,
            true, RefusalKind::kOperator};
  const uint64_t left = ReadSystemMemory().available / 10 * 8;
  if (bytes > left)
    return {"a ring of " + mib(bytes) + " does not fit into the machine's memory, " + mib(left) +
                " are left; take a smaller ring",
            true, RefusalKind::kOperator};
  return {};
}

Refusal Operators::Trace(int socket, uid_t uid, const TraceRequest& request, OperatorState* state) {
  Refusal refusal;
  refusal.kind = RefusalKind::kOperator;
  refusal.text = state->tap ? "this connection records already; one recording each" : "";
  if (!refusal.text.empty()) return refusal;
  if (request.ring_bytes > kTraceRingMost)
    refusal.text = "ring_bytes is " + std::to_string(request.ring_bytes) + ", the limit is " +
                   std::to_string(kTraceRingMost);
  if (!refusal.text.empty()) return refusal;
  const auto group = GroupToTrace(uid, GetText(request.group), &refusal);
  if (!group) return refusal;
  if (group->statistics().recorded())
    refusal.text =
        "group '" + group->key().name + "' is being recorded already; one recording at a time";
  if (!refusal.text.empty()) return refusal;
  const uint64_t capacity = TraceTap::Capacity(group->config().shape(), request.ring_bytes);
  std::erase_if(rings_, [](const Ring& ring) { return ring.tap.expired(); });
  if (Refusal full = CheckRing(uid, capacity); !full.text.empty()) return full;
  const auto tap = TraceTap::Create(group->config().shape(), request.ring_bytes, &refusal.text);
  if (!tap) return refusal;
  rings_.push_back({uid, tap, nullptr, 0});
  const PlanOptions options = groups_.OptionsFor(group->config());
  TraceStarted started;
  started.config = group->config();
  started.ring_bytes = tap->capacity();
  started.epsilon_ppm = options.epsilon_ppm;
  started.variants = options.variants;
  started.work_limit = options.work_limit;
  started.tile_tokens = options.tile_tokens;
  started.relay_hop = options.relay_hop;
  started.cost_token_ps = options.cost.token;
  started.cost_expert_ps = options.cost.expert;
  started.cost_instance_ps = options.cost.instance;
  const int file = tap->file();
  if (!SendMessage(socket, started, &file, 1, MSG_DONTWAIT))
    refusal.text = "the trace ring cannot be passed";
  if (!refusal.text.empty()) return refusal;
  state->traced = group;
  state->tap = tap;
  group->statistics().Record(tap);
  return {};
}

// Whoever got the ring may keep it for ever: its pages go when the recording ends, at once when its
// reader has ended it.
void Operators::Close(OperatorState* state) {
  if (state->tap) {
    state->traced->statistics().Record(nullptr);
    trace_dropped_ += state->tap->dropped();
    for (Ring& ring : rings_)
      if (ring.tap.lock() == state->tap && state->traced->empty()) {
        ring.ended = state->tap;
        ring.until_ns = NowNs() + kReadRestNs;
      }
    if (!state->traced->empty()) state->tap->Empty();
  }
  *state = {};
}

void Operators::Tidy(uint64_t now) {
  std::erase_if(rings_, [now](const Ring& ring) {
    if (ring.ended && now >= ring.until_ns) ring.ended->Empty();
    return ring.tap.expired() || (ring.ended && now >= ring.until_ns);
  });
}

}  // namespace ultraep

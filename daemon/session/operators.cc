#include "daemon/session/operators.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "protocol/transport/seqpacket.h"

namespace ultraep {
namespace {

// Of one answer: what a socket's buffer takes without waiting for its reader.
constexpr size_t kEventsPerAnswer = 64;
// Of all recordings together; beyond what groups hold.
constexpr uint64_t kAllRingsMost = uint64_t{512} << 20;

const VerdictRing& RingOf(const StepStatistics& statistics, const EventsRequest& request) {
  return request.flags & EventsRequest::kVerdicts ? statistics.verdicts() : statistics.fallbacks();
}

}  // namespace

bool Operators::Sees(uid_t uid, const GroupKey& key) const {
  return uid == 0 || uid == geteuid() || uid == key.uid;
}

void Operators::Fill(StatusDaemon* daemon) const {
  daemon->max_connections = options_.max_connections;
  daemon->metrics_port = view_->metrics_port();
  daemon->lease_ns = options_.lease_ns;
  daemon->memory_bytes = groups_.memory_bytes();
  daemon->memory_limit_bytes = options_.memory_limit_bytes;
  daemon->cost_token_ps = options_.plan.cost.token;
  daemon->trace_dropped = trace_dropped_;
  daemon->events_dropped = events_dropped_;
  for (const auto& weak : taps_)
    if (const auto tap = weak.lock()) {
      ++daemon->traces;
      daemon->trace_dropped += tap->dropped();
    }
}

bool Operators::Status(int socket, uid_t uid, const StatusDaemon& daemon) const {
  std::vector<StatusGroup> seen;
  for (const auto& [key, group] : groups_.all())
    if (Sees(uid, key)) seen.push_back(group->Source().Status());
  StatusDaemon head = daemon;
  head.groups = uint32_t(seen.size());
  bool sent = SendMessage(socket, head, nullptr, 0, MSG_DONTWAIT);
  for (const StatusGroup& group : seen)
    if (sent) sent = SendMessage(socket, group, nullptr, 0, MSG_DONTWAIT);
  return sent && SendMessage(socket, StatusEnd(), nullptr, 0, MSG_DONTWAIT);
}

// A group that came after the first request is followed from its first step.
void Operators::Follow(uid_t uid, const EventsRequest& request, OperatorState* state) const {
  const bool from_now = !state->follows && !(request.flags & EventsRequest::kHistory);
  for (const auto& [key, group] : groups_.all()) {
    if (!Sees(uid, key)) continue;
    const auto& statistics = group->shared_statistics();
    const uint64_t begin = from_now ? RingOf(*statistics, request).pushed() : 0;
    state->followed.try_emplace(statistics, OperatorState::Followed{group->config(), begin});
  }
}

// Returns how many were missed.
uint64_t Operators::ReadVerdicts(const EventsRequest& request, OperatorState* state, size_t most,
                                 std::vector<Event>* events) const {
  uint64_t missed = 0;
  for (auto& [statistics, followed] : state->followed) {
    std::vector<StepVerdict> verdicts;
    missed += RingOf(*statistics, request).Read(&followed.cursor, most, &verdicts);
    for (const StepVerdict& verdict : verdicts)
      events->push_back(VerdictEvent(verdict, followed.group));
    most -= verdicts.size();
  }
  std::erase_if(state->followed, [&](const auto& at) {
    const auto& [statistics, followed] = at;
    return followed.cursor >= RingOf(*statistics, request).pushed() &&
           std::none_of(groups_.all().begin(), groups_.all().end(), [&](const auto& living) {
             return living.second->shared_statistics() == statistics;
           });
  });
  return missed;
}

bool Operators::Events(int socket, uid_t uid, const EventsRequest& request, OperatorState* state) {
  const bool all = uid == 0 || uid == geteuid();
  if (!state->follows && !(request.flags & EventsRequest::kHistory))
    state->log_cursor = view_->events().end();
  std::vector<Event> events;
  EventsEnd end;
  uint64_t missed = view_->events().Read(&state->log_cursor, uid, all, kEventsPerAnswer, &events);
  Follow(uid, request, state);
  missed += ReadVerdicts(request, state, kEventsPerAnswer - events.size(), &events);
  if (state->follows) end.missed = missed;  // what was never asked for is not missed
  events_dropped_ += end.missed;
  state->follows = true;
  std::stable_sort(events.begin(), events.end(),
                   [](const Event& a, const Event& b) { return a.time_ns < b.time_ns; });
  bool sent = true;
  for (const Event& event : events)
    if (sent) sent = SendMessage(socket, event, nullptr, 0, MSG_DONTWAIT);
  end.more = events.size() >= kEventsPerAnswer;
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

Refusal Operators::Trace(int socket, uid_t uid, const TraceRequest& request, OperatorState* state) {
  Refusal refusal;
  if (state->tap) return {"this connection records already; one recording each"};
  const uint64_t ring_bytes = request.ring_bytes ? request.ring_bytes : kTraceRingDefault;
  if (ring_bytes > kTraceRingMost)
    return {"ring_bytes is " + std::to_string(ring_bytes) + ", the limit is " +
                std::to_string(kTraceRingMost),
            false, RefusalKind::kLimit};
  const auto group = GroupToTrace(uid, GetText(request.group), &refusal);
  if (!group) return refusal;
  if (group->statistics().recorded())
    return {"group '" + group->key().name + "' is being recorded already; one recording at a time",
            true};
  std::erase_if(taps_, [](const auto& tap) { return tap.expired(); });
  uint64_t in_use = 0;
  for (const auto& weak : taps_)
    if (const auto tap = weak.lock()) in_use += tap->capacity();
  if (in_use + ring_bytes > kAllRingsMost)
    return {"recordings have " + std::to_string(in_use >> 20) + " MiB of rings, " +
                std::to_string(kAllRingsMost >> 20) +
                " MiB is the limit; end one, or take a smaller ring",
            true, RefusalKind::kLimit};
  const auto tap = TraceTap::Create(group->config().shape(), ring_bytes, &refusal.text);
  if (!tap) return {refusal.text, true, RefusalKind::kSystem};
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
    return {"the trace ring cannot be passed", true, RefusalKind::kSystem};
  state->traced = group;
  state->tap = tap;
  taps_.push_back(tap);
  group->statistics().Record(tap);
  return {};
}

void Operators::Close(OperatorState* state) {
  if (!state->tap) return;
  state->traced->statistics().Record(nullptr);
  trace_dropped_ += state->tap->dropped();
  *state = {};
}

}  // namespace ultraep

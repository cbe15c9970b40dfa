#include "daemon/session/node_view.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

// What only grows. The rest of a closed group says nothing any more.
void AddCounters(const StatusGroup& from, StatusGroup* to) {
  GroupCounters& sum = to->counters;
  const GroupCounters& c = from.counters;
  sum.steps_planned += c.steps_planned;
  sum.fallback_deadline += c.fallback_deadline;
  sum.fallback_order += c.fallback_order;
  sum.fallback_bad_row += c.fallback_bad_row;
  sum.replicas += c.replicas;
  sum.peak_before_sum += c.peak_before_sum;
  sum.peak_sum += c.peak_sum;
  sum.lower_bound_sum += c.lower_bound_sum;
  sum.tokens_sum += c.tokens_sum;
  sum.last_planned_ns = std::max(sum.last_planned_ns, c.last_planned_ns);
  sum.members_left += c.members_left;
  sum.members_gone += c.members_gone;
  sum.members_fenced += c.members_fenced;
  to->planning.collect.Add(from.planning.collect);
  to->planning.solve.Add(from.planning.solve);
  to->planning.plan.Add(from.planning.plan);
  to->ranks.Add(from.ranks);
  to->generations += from.generations;
}

std::string NameOf(const StatusGroup& group) { return GetText(group.config.name); }

bool Beats(uint8_t state) {
  return state == uint8_t(MemberState::kJoined) || state == uint8_t(MemberState::kReady);
}

// Of the members that are in it, the age of the oldest one.
uint64_t HeartbeatAge(const GroupGeneration& generation, const StatusGroup& status, uint64_t now) {
  uint64_t oldest = 0;
  for (uint32_t r = 0; r < status.config.ranks; ++r) {
    if (!Beats(status.members[r])) continue;
    const uint64_t beat =
        generation.boards().rank(r).heartbeat.value.load(std::memory_order_relaxed);
    if (beat && now > beat) oldest = std::max(oldest, now - beat);
  }
  return oldest;
}

}  // namespace

StatusGroup GroupSource::Status() const {
  StatusGroup status = fixed;
  status.counters = statistics->Counters();
  status.planning = statistics->Planning();
  status.ranks = ranks_before;
  for (const auto& generation : generations) status.ranks.Add(generation->Ranks());
  status.ranks = believed->Believe(status.ranks, NowNs());
  if (!present) return status;
  GroupGeneration& now = *generations.back();
  const Gate gate = now.gate();
  status.gate_state = uint32_t(gate.state);
  status.gate_value = gate.value;
  status.generation = now.id();
  status.next_sequence = now.steps().next_sequence();
  status.heartbeat_age_ns = HeartbeatAge(now, status, NowNs());
  return status;
}

void NodeView::Publish(const StatusDaemon& daemon, std::vector<GroupSource> groups) {
  std::unique_lock lock(mutex_);
  daemon_ = daemon;
  std::swap(groups_, groups);
  ForgetOldNames();
  lock.unlock();  // what was published before may hold the last of a generation's memory
}

void NodeView::Close(const GroupSource& group) {
  const StatusGroup last = group.Status();
  std::lock_guard lock(mutex_);
  // It must not be counted twice until the next Publish.
  std::erase_if(groups_, [&](const GroupSource& g) { return g.statistics == group.statistics; });
  AddCounters(last, &closed_sum_);
  ClosedGroup closed;
  const auto same = std::find_if(closed_.begin(), closed_.end(), [&](const ClosedGroup& c) {
    return NameOf(c.sums) == NameOf(last);
  });
  if (same != closed_.end()) {
    closed = *same;
    closed_.erase(same);
  }
  closed.sums.config = last.config;
  AddCounters(last, &closed.sums);
  closed.mean_tokens += MeanTokens(last);
  closed_.push_back(closed);
}

// What a living group's name has counted before belongs to its counters, which must not go down.
void NodeView::ForgetOldNames() {
  if (closed_.size() <= kClosedNames) return;
  std::set<std::string> living;
  for (const GroupSource& group : groups_) living.insert(NameOf(group.fixed));
  const auto old = [&](const ClosedGroup& c) { return !living.count(NameOf(c.sums)); };
  long too_many = std::count_if(closed_.begin(), closed_.end(), old) - long(kClosedNames);
  std::erase_if(closed_, [&](const ClosedGroup& c) { return old(c) && too_many-- > 0; });
}

std::vector<GroupSource> NodeView::Groups() const {
  std::lock_guard lock(mutex_);
  return groups_;
}

// The session thread publishes under the same lock: under it nothing is added up. A group is either
// living or closed.
NodeSnapshot NodeView::Read(bool layers) const {
  NodeSnapshot snapshot;
  std::unique_lock lock(mutex_);
  const std::vector<GroupSource> groups = groups_;
  snapshot.daemon = daemon_;
  snapshot.closed = closed_;
  snapshot.closed_sum = closed_sum_;
  lock.unlock();
  snapshot.daemon.metrics_port = metrics_port();
  snapshot.daemon.groups = uint32_t(groups.size());
  for (const GroupSource& group : groups) {
    snapshot.groups.push_back(group.Status());
    if (layers) snapshot.layers.push_back(group.statistics->Layers());
  }
  return snapshot;
}

std::vector<Event> NodeView::LastVerdicts(bool fallbacks_only, size_t most) const {
  std::vector<Event> events;
  for (const GroupSource& group : Groups()) {
    const VerdictRing& ring =
        fallbacks_only ? group.statistics->fallbacks() : group.statistics->verdicts();
    const uint64_t end = ring.pushed();
    uint64_t cursor = end > most ? end - most : 0;
    std::vector<StepVerdict> verdicts;
    ring.Read(&cursor, most, &verdicts);
    for (const StepVerdict& verdict : verdicts)
      events.push_back(VerdictEvent(verdict, group.fixed.config));
  }
  return events;
}

Event VerdictEvent(const StepVerdict& verdict, const GroupConfig& group) {
  Event event;
  event.time_ns = verdict.time_ns;
  event.kind = uint16_t(verdict.kind);
  event.reason = uint16_t(verdict.reason);
  event.sequence = verdict.sequence;
  event.layer = verdict.layer;
  event.microbatch = verdict.microbatch;
  event.peak_before = verdict.certificate.peak_before;
  event.peak = verdict.certificate.peak;
  event.tokens = verdict.certificate.total;
  event.replicas = verdict.replicas;
  event.latency_ns = verdict.solve_ns;
  if (verdict.kind == EventKind::kPlan) event.value = group.ranks;
  SetText(event.group, GetText(group.name));
  return event;
}

}  // namespace ultraep

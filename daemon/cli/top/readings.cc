#include "daemon/cli/top/readings.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <tuple>
#include <utility>

#include "daemon/cli/group_text.h"
#include "daemon/event_json.h"
#include "protocol/boards.h"

namespace ultraep {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr uint64_t kSecondNs = 1'000'000'000;
constexpr uint32_t kPastSeconds = 60;
constexpr long kEventsKept = 10;

// Names may be used by several users and jobs.
std::string KeyOf(const StatusGroup& g) {
  std::string key = GetText(g.config.name) + "/" + std::to_string(g.uid) + "/";
  key.append(reinterpret_cast<const char*>(g.config.nonce), sizeof g.config.nonce);
  return key;
}

double P99Us(const LatencyHistogram& earlier, const LatencyHistogram& now) {
  const LatencyHistogram since = now.Since(earlier);
  return since.count() ? since.Quantile(0.99) / 1e3 : kNone;
}

double Rate(uint64_t count, double seconds) {
  return seconds > 0 ? double(count) / seconds : kNone;
}

// JSON has no NaN.
Json Number(double value) { return std::isnan(value) ? Json(nullptr) : Json(value); }

}  // namespace

TopGroup CompareGroup(const StatusGroup& earlier, const StatusGroup& now, double seconds) {
  const GroupCounters &a = earlier.counters, &b = now.counters;
  const uint64_t steps = b.steps_planned - a.steps_planned;
  const uint64_t tokens = b.tokens_sum - a.tokens_sum;
  const uint64_t before = b.peak_before_sum - a.peak_before_sum;
  const uint64_t after = b.peak_sum - a.peak_sum;
  TopGroup g;
  g.name = GetText(now.config.name);
  g.gate = GateName(now.gate_state);
  g.ranks = now.config.ranks;
  for (uint32_t r = 0; r < g.ranks && r < kMaxRanks; ++r)
    g.ready += MemberState(now.members[r]) == MemberState::kReady;
  g.not_ready = NotReadyText(now);
  g.steps_per_second = Rate(steps, seconds);
  g.before = tokens ? Imbalance(before, tokens, g.ranks) : kNone;
  g.after = tokens ? Imbalance(after, tokens, g.ranks) : kNone;
  g.replicas = steps ? double(b.replicas - a.replicas) / double(steps) : kNone;
  g.slots = now.config.ranks * now.config.slots;
  g.plan_p99_us = P99Us(earlier.planning.plan, now.planning.plan);
  g.verdict_p99_us = P99Us(earlier.ranks.verdict, now.ranks.verdict);
  g.stream_p99_us = P99Us(earlier.ranks.stream, now.ranks.stream);
  g.fallbacks = b.steps_fallback() - a.steps_fallback();
  g.fallbacks_total = b.steps_fallback();
  g.avoided_per_second = Rate(before > after ? before - after : 0, seconds);
  return g;
}

void SortGroups(TopOrder order, std::vector<TopGroup>* groups) {
  const auto value = [order](const TopGroup& g) {
    const double all[] = {0, g.steps_per_second, g.before, double(g.fallbacks_total),
                          g.avoided_per_second};
    const double v = all[int(order)];
    return std::isnan(v) ? -1 : v;
  };
  std::stable_sort(groups->begin(), groups->end(), [&](const TopGroup& a, const TopGroup& b) {
    return std::make_tuple(-value(a), a.name) < std::make_tuple(-value(b), b.name);
  });
}

void AddEvents(const std::vector<Event>& more, std::vector<TopEvent>* events) {
  for (const Event& e : more) {
    const bool like = !events->empty() && EventKind(e.kind) == EventKind::kFallback &&
                      events->back().event.kind == e.kind &&
                      events->back().event.reason == e.reason &&
                      GetText(events->back().event.group) == GetText(e.group);
    if (like)
      events->back() = {e, events->back().times + 1};
    else
      events->push_back({e});
  }
  if (long(events->size()) > kEventsKept)
    events->erase(events->begin(), events->end() - kEventsKept);
}

Json TopJson(const TopView& view) {
  Json groups = Json::array();
  for (const TopGroup& g : view.groups)
    groups.push_back({{"name", g.name},
                      {"ranks", g.ranks},
                      {"ranks_ready", g.ready},
                      {"not_ready", g.not_ready},
                      {"gate", g.gate},
                      {"steps_per_second", Number(g.steps_per_second)},
                      {"imbalance_before", Number(g.before)},
                      {"imbalance_after", Number(g.after)},
                      {"replicas_per_step", Number(g.replicas)},
                      {"slots", g.slots},
                      {"plan_p99_us", Number(g.plan_p99_us)},
                      {"verdict_p99_us", Number(g.verdict_p99_us)},
                      {"stream_p99_us", Number(g.stream_p99_us)},
                      {"fallbacks", g.fallbacks},
                      {"fallbacks_total", g.fallbacks_total},
                      {"tokens_avoided_per_second", Number(g.avoided_per_second)}});
  Json json = {{"time", IsoTime(view.unix_ns)},
               {"interval_seconds", view.seconds},
               {"cpu_share", Number(view.cpu_share)}};
  json["daemon"] = StatusJson(view.daemon, {})["daemon"];
  json["groups"] = std::move(groups);
  return json;
}

void Readings::Remember(const Past& past, std::deque<Past>* all, TopGroup* group) {
  all->push_back(past);
  const uint64_t now = past.end_ns;
  while (all->front().end_ns + kPastSeconds * kSecondNs <= now) all->pop_front();
  group->past_before.assign(kPastSeconds, kNone);
  group->past_after.assign(kPastSeconds, kNone);
  for (const Past& p : *all)
    for (uint32_t i = 0; i < kPastSeconds; ++i) {
      const uint64_t age_ns = (kPastSeconds - i) * kSecondNs - kSecondNs / 2;  // of its middle
      if (now < age_ns || now - age_ns <= p.begin_ns || now - age_ns > p.end_ns) continue;
      group->past_before[i] = p.before;
      group->past_after[i] = p.after;
    }
}

TopView Readings::Add(Reading reading) {
  const bool same = any_ && reading.daemon.pid == last_.daemon.pid &&
                    reading.daemon.uptime_ns >= last_.daemon.uptime_ns;
  TopView view;
  view.seconds = same ? double(reading.time_ns - last_.time_ns) / 1e9 : 0;
  view.unix_ns = reading.unix_ns;
  view.daemon = reading.daemon;
  const bool cpu = same && view.seconds > 0 && reading.cpu_seconds >= 0 && last_.cpu_seconds >= 0;
  view.cpu_share = cpu ? (reading.cpu_seconds - last_.cpu_seconds) / view.seconds : kNone;
  std::map<std::string, std::deque<Past>> before = std::exchange(past_, {});
  for (const StatusGroup& now : reading.groups) {
    const std::string key = KeyOf(now);
    if (auto at = before.find(key); at != before.end()) past_[key] = std::move(at->second);
    const auto at = std::find_if(last_.groups.begin(), last_.groups.end(), [&](const auto& g) {
      return KeyOf(g) == key && g.counters.steps_planned <= now.counters.steps_planned;
    });
    const bool known = same && at != last_.groups.end();
    // A group that was not there before has counted since then; of the first reading nobody knows.
    const StatusGroup& earlier = known ? *at : same ? StatusGroup() : now;
    TopGroup group = CompareGroup(earlier, now, view.seconds);
    const uint64_t begin_ns = same ? last_.time_ns : reading.time_ns;
    Remember({begin_ns, reading.time_ns, group.before, group.after}, &past_[key], &group);
    view.groups.push_back(std::move(group));
  }
  last_ = std::move(reading);
  any_ = true;
  return view;
}

}  // namespace ultraep

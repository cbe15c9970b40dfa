#include "daemon/metrics/group_series.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "protocol/boards.h"

namespace ultraep::metrics {
namespace {

using Group = const StatusGroup&;

struct Counter {
  const Metric* metric;
  std::vector<std::string> labels;  // after `group`
  double (*value)(Group);           // null: MeanTokens, of which closed groups keep a sum
};

double Seconds(uint64_t ns) { return double(ns) / 1e9; }

double PerRank(uint64_t tokens, Group g) {
  return g.config.ranks ? double(tokens) / g.config.ranks : 0;
}

const std::vector<Counter>& Counters() {
  static const std::vector<Counter> counters = {
      {&kRankTokensMaxTotal,
       {"before"},
       [](Group g) { return double(g.counters.peak_before_sum); }},
      {&kRankTokensMaxTotal, {"after"}, [](Group g) { return double(g.counters.peak_sum); }},
      {&kRankTokensMeanTotal, {}, nullptr},
      {&kRankTokensBoundTotal, {}, [](Group g) { return double(g.counters.lower_bound_sum); }},
      {&kTokensAvoidedTotal,
       {},
       [](Group g) { return double(g.counters.peak_before_sum) - double(g.counters.peak_sum); }},
      {&kStepsTotal, {"plan", "none"}, [](Group g) { return double(g.counters.steps_planned); }},
      {&kStepsTotal,
       {"fallback", "deadline"},
       [](Group g) { return double(g.counters.fallback_deadline); }},
      {&kStepsTotal,
       {"fallback", "order_mismatch"},
       [](Group g) { return double(g.counters.fallback_order); }},
      {&kStepsTotal,
       {"fallback", "bad_row"},
       [](Group g) { return double(g.counters.fallback_bad_row); }},
      {&kRankStepsTotal, {"plan"}, [](Group g) { return double(g.ranks.planned); }},
      {&kRankStepsTotal, {"fallback"}, [](Group g) { return double(g.ranks.fallback); }},
      {&kRankStepsTotal, {"declined"}, [](Group g) { return double(g.ranks.declined); }},
      {&kRankStepsTotal, {"failed"}, [](Group g) { return double(g.ranks.failed); }},
      {&kReplicasTotal, {}, [](Group g) { return double(g.counters.replicas); }},
      {&kTransfersTotal, {"weights"}, [](Group g) { return double(g.ranks.transfers.transfers); }},
      {&kTransfersTotal, {"gradients"}, [](Group g) { return double(g.ranks.transfers.replicas); }},
      {&kTransferBytesTotal,
       {"weights"},
       [](Group g) { return double(g.ranks.transfers.sent_bytes); }},
      {&kRelayedBytesTotal,
       {},
       [](Group g) { return double(g.ranks.transfers.relayed_bytes); }},
      {&kTransferBytesTotal,
       {"gradients"},
       [](Group g) { return double(g.ranks.transfers.reduced_bytes); }},
      {&kTransferSecondsTotal,
       {"weights", "copy"},
       [](Group g) { return Seconds(g.ranks.transfers.copy_ns); }},
      {&kTransferSecondsTotal,
       {"weights", "wait"},
       [](Group g) { return Seconds(g.ranks.transfers.send_wait_ns); }},
      {&kTransferSecondsTotal,
       {"gradients", "copy"},
       [](Group g) { return Seconds(g.ranks.transfers.add_ns); }},
      {&kTransferSecondsTotal,
       {"gradients", "wait"},
       [](Group g) { return Seconds(g.ranks.transfers.reduce_wait_ns); }},
      {&kMemberLossesTotal, {"left"}, [](Group g) { return double(g.counters.members_left); }},
      {&kMemberLossesTotal, {"gone"}, [](Group g) { return double(g.counters.members_gone); }},
      {&kMemberLossesTotal, {"fenced"}, [](Group g) { return double(g.counters.members_fenced); }},
      {&kGenerationsTotal, {}, [](Group g) { return double(g.generations); }}};
  return counters;
}

// Of several living groups under one label.
enum class Together { kSum, kLargest, kSmallest };

struct Gauge {
  const Metric* metric;
  std::vector<std::string> labels;
  Together together;
  double (*value)(Group);  // NaN: it has none yet
};

bool Planned(Group g) { return g.counters.last_planned_ns != 0; }

double LastImbalance(Group g, uint64_t peak) {
  return Planned(g) ? Imbalance(peak, g.counters.last_tokens, g.config.ranks) : NAN;
}

double LastGap(Group g) {
  const GroupCounters& c = g.counters;
  if (!Planned(g)) return NAN;
  return c.last_lower_bound ? double(c.last_peak) / double(c.last_lower_bound) - 1 : 0;
}

double OfLastPlan(Group g, double value) { return Planned(g) ? value : NAN; }

template <MemberState kState>
double RanksIn(Group g) {
  const uint32_t ranks = std::min(g.config.ranks, kMaxRanks);
  return double(std::count(g.members, g.members + ranks, uint8_t(kState)));
}

const std::vector<Gauge>& Gauges() {
  using enum Together;
  static const std::vector<Gauge> gauges = {
      {&kImbalanceRatio,
       {"before"},
       kLargest,
       [](Group g) { return LastImbalance(g, g.counters.last_peak_before); }},
      {&kImbalanceRatio,
       {"after"},
       kLargest,
       [](Group g) { return LastImbalance(g, g.counters.last_peak); }},
      {&kRankTokensMax,
       {"before"},
       kLargest,
       [](Group g) { return OfLastPlan(g, double(g.counters.last_peak_before)); }},
      {&kRankTokensMax,
       {"after"},
       kLargest,
       [](Group g) { return OfLastPlan(g, double(g.counters.last_peak)); }},
      {&kRankTokensMean,
       {},
       kLargest,
       [](Group g) { return OfLastPlan(g, PerRank(g.counters.last_tokens, g)); }},
      {&kOptimalityGapRatio, {}, kLargest, LastGap},
      {&kReplicas, {}, kSum, [](Group g) { return double(g.counters.last_replicas); }},
      {&kSlots, {}, kSum, [](Group g) { return double(g.config.ranks) * g.config.slots; }},
      {&kRanks, {"absent"}, kSum, RanksIn<MemberState::kAbsent>},
      {&kRanks, {"joined"}, kSum, RanksIn<MemberState::kJoined>},
      {&kRanks, {"ready"}, kSum, RanksIn<MemberState::kReady>},
      {&kRanks, {"left"}, kSum, RanksIn<MemberState::kLeft>},
      {&kRanks, {"gone"}, kSum, RanksIn<MemberState::kGone>},
      {&kRanks, {"fenced"}, kSum, RanksIn<MemberState::kFenced>},
      {&kGroupOpen,
       {},
       kSmallest,
       [](Group g) { return g.gate_state == uint32_t(GateState::kOpen) ? 1.0 : 0.0; }},
      {&kHeartbeatAge, {}, kLargest, [](Group g) { return Seconds(g.heartbeat_age_ns); }},
      {&kGroupMemoryBytes, {}, kSum, [](Group g) { return double(g.memory_bytes); }},
      {&kGroupGpuMemoryBytes,
       {},
       kSum,
       [](Group g) { return double(g.device_bytes) * g.config.ranks; }},
      {&kLastPlanTimestamp, {}, kSmallest, [](Group g) {
         return OfLastPlan(g, Seconds(g.counters.last_planned_ns));
       }}};
  return gauges;
}

double Combine(Together together, double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) ? b : a;
  switch (together) {
    case Together::kSum:
      return a + b;
    case Together::kLargest:
      return std::max(a, b);
    case Together::kSmallest:
      return std::min(a, b);
  }
  return a;
}

std::vector<std::string> Labels(const std::string& group, const std::vector<std::string>& more) {
  std::vector<std::string> labels = {group};
  labels.insert(labels.end(), more.begin(), more.end());
  return labels;
}

std::string NameOf(Group g) { return GetText(g.config.name); }

}  // namespace

void GroupSeries::Count(const NodeSnapshot& snapshot) {
  std::map<std::string, Counts> by_name;
  const auto add = [&](Group group, double mean_tokens) {
    Counts& counts = by_name[NameOf(group)];
    counts.resize(Counters().size());
    for (size_t i = 0; i < counts.size(); ++i)
      counts[i] += Counters()[i].value ? Counters()[i].value(group) : mean_tokens;
  };
  for (Group group : snapshot.groups) add(group, MeanTokens(group));
  for (const ClosedGroup& closed : snapshot.closed) add(closed.sums, closed.mean_tokens);

  const std::vector<std::string> named = labels_.named();
  std::erase_if(by_label_, [&](const auto& label) {
    return label.first != kOther &&
           std::find(named.begin(), named.end(), label.first) == named.end();
  });
  for (auto& [name, now] : by_name) {
    const std::string label = labels_.Of(name);
    Counts& sum = by_label_[label];
    // A label that is new starts with all that was counted under its name.
    const bool starts = label != kOther && sum.empty();
    sum.resize(now.size());
    const auto before = by_name_.find(name);
    for (size_t i = 0; i < now.size(); ++i) {
      const double known = before == by_name_.end() ? 0 : before->second[i];
      // Words are read one by one while others count: a difference of two may seem to go down.
      now[i] = std::max(now[i], known);
      sum[i] += now[i] - (starts ? 0 : known);
    }
  }
  by_name_ = std::move(by_name);
}

void GroupSeries::Collect(const NodeSnapshot& snapshot, Families* families) {
  std::vector<std::string> living, closed;
  for (const StatusGroup& group : snapshot.groups) living.push_back(NameOf(group));
  for (const ClosedGroup& group : snapshot.closed) closed.push_back(NameOf(group.sums));
  labels_.Update(living, closed);
  Count(snapshot);

  for (size_t i = 0; i < Counters().size(); ++i)
    for (const auto& [label, sums] : by_label_)
      families->Add(*Counters()[i].metric, Labels(label, Counters()[i].labels), sums[i]);
  for (const Gauge& gauge : Gauges()) {
    std::map<std::string, double> values;
    for (size_t g = 0; g < living.size(); ++g) {
      const double value = gauge.value(snapshot.groups[g]);
      const auto [at, first] = values.emplace(labels_.Of(living[g]), value);
      if (!first) at->second = Combine(gauge.together, at->second, value);
    }
    for (const auto& [label, value] : values)
      if (!std::isnan(value)) families->Add(*gauge.metric, Labels(label, gauge.labels), value);
  }
}

}  // namespace ultraep::metrics

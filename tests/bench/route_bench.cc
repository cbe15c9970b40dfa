// `ultraep-bench route`: how evenly a source's tokens for a replicated expert spread over its
// instances (rule 10), beside the interleave that UltraEP publishes and none at all.
//
// Deviation of a window: over 64 consecutive tokens of one source for one expert, the largest
// difference between what an instance gets and its even share of the window.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "absl/strings/str_format.h"
#include "daemon/planner/solve_plan.h"
#include "nlohmann/json.hpp"
#include "protocol/split.h"
#include "tests/bench/bench.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kWindow = 64;

struct Method {
  const char* name;
  double sum = 0, worst = 0;  // of windows
  uint64_t windows = 0;
  uint64_t wrong_totals = 0;  // (source, instance) pairs that do not get what the split says
};

// Windows of one source's tokens; to[o] is the instance of its token o.
void AddWindows(const std::vector<uint32_t>& to, const std::vector<uint64_t>& counts,
                Method* method) {
  std::vector<uint64_t> all(counts.size(), 0);
  for (const uint32_t j : to) ++all[j];
  for (size_t j = 0; j < counts.size(); ++j) method->wrong_totals += all[j] != counts[j];
  for (size_t begin = 0; begin + kWindow <= to.size(); begin += kWindow) {
    std::vector<uint32_t> got(counts.size(), 0);
    for (size_t o = begin; o < begin + kWindow; ++o) ++got[to[o]];
    double deviation = 0;
    for (size_t j = 0; j < counts.size(); ++j)
      deviation = std::max(
          deviation, std::abs(got[j] - double(kWindow) * double(counts[j]) / double(to.size())));
    method->sum += deviation;
    method->worst = std::max(method->worst, deviation);
    ++method->windows;
  }
}

uint32_t ByPrefix(uint64_t place, const std::vector<uint64_t>& counts) {
  uint32_t j = 0;
  while (place >= counts[j]) place -= counts[j++];
  return j;
}

// The published one: stride n/2 + 1 raised to the next coprime of n, shifted by the expert's id.
uint64_t PublishedPlace(uint64_t ordinal, uint64_t n, uint32_t expert) {
  uint64_t stride = n / 2 + 1;
  while (Gcd(stride, n) != 1) ++stride;
  return (ordinal * stride + expert % n) % n;
}

void AddExpert(const Workload& w, const test::LoadMatrix& load, const Plan& plan, uint32_t expert,
               Method* methods) {
  std::vector<uint32_t> column(w.shape.ranks);
  for (uint32_t r = 0; r < w.shape.ranks; ++r) column[r] = load.view().at(r, expert);
  std::vector<SplitInstance> instances(1);
  instances[0].rank = w.shape.home(expert);
  instances[0].quota = ExpertTokens(load.view(), expert);
  for (const Replica& r : plan.replicas) {
    if (r.expert != expert) continue;
    SplitInstance instance;
    instance.rank = r.rank;
    instance.quota = r.tokens;
    instances[0].quota -= r.tokens;
    instances.push_back(instance);
  }
  if (instances.size() == 1) return;
  const auto count = uint32_t(instances.size());
  const uint64_t pool = BuildSplit(column.data(), instances.data(), count);
  uint64_t before = 0;
  for (uint32_t source = 0; source < w.shape.ranks; ++source) {
    const SourceSplit split =
        SplitForSource(column.data(), source, before, instances.data(), count, pool);
    before += column[source];
    const uint64_t n = column[source];
    std::vector<uint64_t> counts;
    for (uint32_t j = 0; j < count; ++j)
      counts.push_back(TokensToInstance(split, j, instances.data()));
    std::vector<uint32_t> ours, published, none;
    for (uint64_t o = 0; o < n; ++o) {
      ours.push_back(InstanceOf(split, o, instances.data()));
      published.push_back(ByPrefix(PublishedPlace(o, n, expert), counts));
      none.push_back(ByPrefix(o, counts));
    }
    AddWindows(ours, counts, &methods[0]);
    AddWindows(published, counts, &methods[1]);
    AddWindows(none, counts, &methods[2]);
  }
}

}  // namespace

int RunRouteBench(const Workload& w, bool json) {
  Method methods[] = {{"ultraep"}, {"published-interleave"}, {"none"}};
  PlanWorkspace workspace;
  PlanOptions options;
  options.epsilon_ppm = w.epsilon_ppm;
  for (uint32_t i = 0; i < w.seeds; ++i) {
    ShowProgress(absl::StrFormat("load %d of %d", i + 1, w.seeds));
    const test::LoadMatrix load = w.Draw(i);
    Plan plan;
    SolvePlan(w.shape, load.view(), options, &workspace, &plan);
    for (uint32_t e = 0; e < w.shape.experts; ++e) AddExpert(w, load, plan, e, methods);
  }
  EndProgress();
  Json rows = Json::array();
  for (const Method& m : methods)
    rows.push_back({{"method", m.name},
                    {"window_tokens", kWindow},
                    {"windows", m.windows},
                    {"deviation_mean", m.windows ? m.sum / double(m.windows) : 0},
                    {"deviation_max", m.worst},
                    {"wrong_totals", m.wrong_totals}});
  if (json) {
    std::printf("%s\n", Json({{"rows", rows}}).dump().c_str());
    return 0;
  }
  std::printf("deviation from the even share in windows of %u tokens, %u loads\n\n", kWindow,
              w.seeds);
  std::printf("%-22s  %10s  %10s  %10s  %12s\n", "method", "windows", "mean", "max",
              "wrong totals");
  for (const Method& m : methods)
    std::printf("%-22s  %10llu  %10.2f  %10.2f  %12llu\n", m.name,
                static_cast<unsigned long long>(m.windows),
                m.windows ? m.sum / double(m.windows) : 0, m.worst,
                static_cast<unsigned long long>(m.wrong_totals));
  return 0;
}

}  // namespace ultraep::bench

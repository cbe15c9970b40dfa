// The groups: who is missing, what falls back, and whether more slots would help.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "daemon/cli/doctor/checks.h"
#include "daemon/cli/group_text.h"
#include "daemon/status_json.h"
#include "protocol/verdict_board.h"

namespace ultraep {
namespace {

// Shares of steps and imbalances above which somebody should look.
constexpr double kFallbackShare = 0.01, kGap = 0.05, kFloor = 1.05;

std::string FallbackFix(const GroupCounters& c) {
  if (c.fallback_order >= std::max(c.fallback_deadline, c.fallback_bad_row))
    return "the ranks call layers or microbatches in different orders: number steps alike on all";
  if (c.fallback_bad_row > c.fallback_deadline)
    return "a rank submits rows that contradict their header: report it with the daemon's log";
  return "give the planner a CPU of its own (see CPUs), or the ranks a longer solve_deadline";
}

void CheckGroup(const StatusGroup& g, uint64_t lease_ns, std::vector<Finding>* findings) {
  const GroupCounters& c = g.counters;
  const std::string name = GetText(g.config.name);
  const size_t before = findings->size();
  if (const std::string missing = NotReadyText(g); !missing.empty())
    findings->push_back(
        {Level::kWarn, name + ": main copies only: " + missing,
         "the framework starts what is missing, with the same name, nonce and rank"});
  else if (GateState(g.gate_state) != GateState::kOpen)
    findings->push_back({Level::kWarn,
                         name + ": main copies only, the gate is " + GateName(g.gate_state),
                         "`ultraepctl events --group " + name + "` says why"});
  if (g.heartbeat_age_ns > lease_ns / 2)
    findings->push_back(
        {Level::kWarn,
         absl::StrFormat("%s: a rank's heartbeat is %.1f s old, it is fenced at %.1f s", name,
                         double(g.heartbeat_age_ns) / 1e9, double(lease_ns) / 1e9),
         "is a rank stopped or starved of CPU? Else raise --lease_ms"});
  const uint64_t steps = c.steps_planned + c.steps_fallback();
  if (double(c.steps_fallback()) > kFallbackShare * double(steps))
    findings->push_back(
        {Level::kWarn,
         absl::StrFormat("%s: %d of %d steps fell back: %d deadline, %d order, %d bad row", name,
                         c.steps_fallback(), steps, c.fallback_deadline, c.fallback_order,
                         c.fallback_bad_row),
         FallbackFix(c)});
  const double floor = MeanImbalance(c, c.lower_bound_sum, g.config.ranks);
  if (floor > kFloor)
    findings->push_back(
        {Level::kNote,
         absl::StrFormat("%s: no plan could be better than imbalance %.3f with %d slots", name,
                         floor, g.config.slots),
         "more slots per rank"});
  else if (MeanGap(c) > kGap)
    findings->push_back(
        {Level::kNote,
         absl::StrFormat("%s: plans are %.0f %% above the proven bound", name, 100 * MeanGap(c)),
         "more slots per rank, or a smaller --tile_tokens or --cost_expert_us"});
  if (findings->size() > before) return;
  findings->push_back(
      {Level::kOk,
       absl::StrFormat("%s: %d ranks ready, imbalance %.3f -> %.3f", name, g.config.ranks,
                       MeanImbalance(c, c.peak_before_sum, g.config.ranks),
                       MeanImbalance(c, c.peak_sum, g.config.ranks)),
       ""});
}

}  // namespace

std::vector<Finding> CheckGroups(const Examined& x) {
  if (!x.answer.answers()) return {{Level::kNote, "not known without the daemon", ""}};
  if (x.answer.groups.empty()) return {{Level::kOk, "no groups", ""}};
  std::vector<Finding> findings;
  for (const StatusGroup& group : x.answer.groups)
    CheckGroup(group, x.answer.daemon.lease_ns, &findings);
  return findings;
}

}  // namespace ultraep

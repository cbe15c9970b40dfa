// `ultraepctl trace info`.
#include <cstdio>
#include <ctime>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "daemon/cli/command.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/progress.h"
#include "daemon/cli/terminal.h"
#include "daemon/cli/trace_commands.h"
#include "daemon/planner/solve_plan.h"
#include "daemon/trace/summary.h"
#include "nlohmann/json.hpp"
#include "protocol/operator_messages.h"
#include "protocol/verdict_board.h"

namespace ultraep {
namespace {

using Json = nlohmann::ordered_json;
using Number = unsigned long long;

struct Verified {
  uint64_t planned = 0;  // steps whose plan was made again
  uint64_t differ = 0;
  uint64_t first_step = 0;  // that differs
  std::string first_text;
};

std::string Difference(const trace::TraceStep& step, const Plan& plan) {
  if (plan.replicas.size() != step.replicas.size())
    return absl::StrFormat("%d replicas recorded, %d planned now", step.replicas.size(),
                           plan.replicas.size());
  for (size_t i = 0; i < plan.replicas.size(); ++i)
    if (!(plan.replicas[i] == step.replicas[i])) return absl::StrFormat("replica %d", i);
  const Certificate recorded{uint64_t(step.row.tokens), uint64_t(step.row.peak_before),
                             uint64_t(step.row.peak), uint64_t(step.row.lower_bound)};
  return plan.certificate == recorded ? "" : "the certificate";
}

std::string Verify(trace::TraceFiles* trace, Verified* out) {
  Progress progress("planned", trace->steps());
  PlanWorkspace workspace;
  trace::TraceStep step;
  Plan plan;
  for (uint64_t i = 0; i < trace->steps(); ++i) {
    if (std::string wrong = trace->Read(i, &step); !wrong.empty()) return wrong;
    if (step.row.verdict != int64_t(Verdict::kPlan)) continue;
    SolvePlan(trace->shape(), step.load(trace->shape()), trace->info().options, &workspace, &plan);
    ++out->planned;
    const std::string text = Difference(step, plan);
    if (!text.empty() && out->differ++ == 0) {
      out->first_step = i;
      out->first_text = text;
    }
    progress.Done(i + 1);
  }
  return "";
}

Json DistributionJson(const trace::Distribution& s) {
  return {{"mean", s.mean},
          {"p50", s.p50},
          {"p99", s.p99},
          {"worst", s.worst},
          {"worst_step", s.worst_step}};
}

Json ToJson(const trace::TraceFiles& trace, const trace::Summary& s) {
  const trace::TraceInfo& info = trace.info();
  return {{"trace", trace.path()},
          {"source", info.source},
          {"group", info.group},
          {"started", info.started},
          {"ranks", info.shape.ranks},
          {"experts", info.shape.experts},
          {"slots", info.shape.slots},
          {"domain_size", info.shape.domain_size},
          {"expert_bytes", info.expert_bytes},
          {"epsilon", info.options.epsilon_ppm / 1e6},
          {"steps", s.steps},
          {"steps_lost", trace.lost()},
          {"dropped", info.dropped},
          {"layers", s.layers},
          {"generations", s.generations.size()},
          {"seconds", double(s.last_ns - s.first_ns) / 1e9},
          {"planned", s.planned},
          {"fallback", s.fallback},
          {"fallback_deadline", s.fallback_by_reason[uint16_t(FallbackReason::kDeadline)]},
          {"fallback_order", s.fallback_by_reason[uint16_t(FallbackReason::kOrderMismatch)]},
          {"fallback_bad_row", s.fallback_by_reason[uint16_t(FallbackReason::kBadRow)]},
          {"not_planned", s.unplanned},
          {"tokens", s.tokens},
          {"tokens_avoided", s.avoided},
          {"imbalance_before", DistributionJson(s.before)},
          {"imbalance_after", DistributionJson(s.after)},
          {"imbalance_floor", DistributionJson(s.floor)},
          {"gap", s.gap},
          {"replicas", s.replicas},
          {"most_replicas", s.most_replicas},
          {"solve_us", {{"p50", s.solve_p50_us}, {"p99", s.solve_p99_us}}}};
}

void PrintDistribution(const char* name, const trace::Distribution& s) {
  std::printf("  %-7s %8.3f %8.3f %8.3f %8.3f %10llu\n", name, s.mean, s.p50, s.p99, s.worst,
              static_cast<Number>(s.worst_step));
}

void PrintTable(const trace::TraceFiles& trace, const trace::Summary& s) {
  const trace::TraceInfo& info = trace.info();
  std::printf("%s: %s%s%s%s%s\n", trace.path().c_str(), Printable(info.source).c_str(),
              info.group.empty() ? "" : ", group ", Printable(info.group).c_str(),
              info.started.empty() ? "" : ", ", Printable(info.started).c_str());
  std::printf("  %u ranks, %u experts, %u slots per rank, domain %u, epsilon %g\n",
              info.shape.ranks, info.shape.experts, info.shape.slots, info.shape.domain_size,
              info.options.epsilon_ppm / 1e6);
  std::printf("  %llu steps of %zu layers in %.1f s, %zu generations, %llu missed\n",
              static_cast<Number>(s.steps), s.layers.size(), double(s.last_ns - s.first_ns) / 1e9,
              s.generations.size(), static_cast<Number>(info.dropped));
  if (trace.lost() > 0)
    std::printf("  %llu of %llu steps are whole: of the others something is missing in the files\n",
                static_cast<Number>(s.steps), static_cast<Number>(s.steps + trace.lost()));
  std::printf(
      "  verdicts: %llu planned, %llu fallback (deadline %llu, order %llu, bad row %llu), "
      "%llu without one\n\n",
      static_cast<Number>(s.planned), static_cast<Number>(s.fallback),
      static_cast<Number>(s.fallback_by_reason[1]), static_cast<Number>(s.fallback_by_reason[2]),
      static_cast<Number>(s.fallback_by_reason[3]), static_cast<Number>(s.unplanned));
  std::printf("  %-7s %8s %8s %8s %8s %10s   imbalance = max / mean over ranks\n", "", "mean",
              "p50", "p99", "worst", "at step");
  PrintDistribution("before", s.before);
  PrintDistribution("after", s.after);
  PrintDistribution("floor", s.floor);
  std::printf(
      "\n  gap to the bound %.2f %%, %.1f replicas per step (most %llu), solve p50 %.1f us, "
      "p99 %.1f us\n",
      100 * s.gap, s.steps ? double(s.replicas) / double(s.steps) : 0,
      static_cast<Number>(s.most_replicas), s.solve_p50_us, s.solve_p99_us);
  std::printf("  %llu tokens, %llu token-times avoided on the fullest ranks\n",
              static_cast<Number>(s.tokens), static_cast<Number>(s.avoided));
}

}  // namespace

int ShowTrace(const std::string& path) {
  trace::TraceFiles trace;
  if (std::string wrong = trace.Open(path); !wrong.empty()) return FailTrace(kExitFailed, wrong);
  trace::Summarizer summarizer(trace.shape().ranks);
  {
    Progress progress("read", trace.steps());
    trace::TraceStep step;  // whole, so that every figure is checked
    for (uint64_t i = 0; i < trace.steps(); ++i) {
      if (std::string wrong = trace.Read(i, &step); !wrong.empty())
        return FailTrace(kExitFailed, wrong);
      summarizer.Add(step.row);
      progress.Done(i + 1);
    }
  }
  const trace::Summary summary = summarizer.Finish();
  const bool verify = absl::GetFlag(FLAGS_verify);
  Verified verified;
  if (verify)
    if (std::string wrong = Verify(&trace, &verified); !wrong.empty())
      return FailTrace(kExitFailed, wrong);
  if (absl::GetFlag(FLAGS_json)) {
    Json json = ToJson(trace, summary);
    if (verify) json["verified"] = {{"plans", verified.planned}, {"differ", verified.differ}};
    std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    PrintTable(trace, summary);
    if (verify)
      std::printf("  verified: %llu plans made again, %llu differ\n",
                  static_cast<Number>(verified.planned), static_cast<Number>(verified.differ));
  }
  if (verified.differ == 0) return kExitOk;
  return FailTrace(
      kExitFailed,
      absl::StrFormat("%d of %d plans differ, the first at step %d: %s; another "
                      "release may plan otherwise",
                      verified.differ, verified.planned, verified.first_step, verified.first_text));
}

}  // namespace ultraep

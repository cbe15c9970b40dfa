// `ultraepctl report`: a trace as one self-contained page.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/command.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/plan_flags.h"
#include "daemon/cli/progress.h"
#include "daemon/cli/trace_commands.h"
#include "daemon/report/report.h"
#include "nlohmann/json.hpp"
#include "protocol/check_plan.h"

namespace ultraep {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;
constexpr uint64_t kDefaultMib = 10;
constexpr uint64_t kMostMib = 1024;
constexpr uint32_t kMostBaselineSteps = 100'000;

int Fail(int status, const std::string& text) {
  std::fprintf(stderr, "ultraepctl report: %s\n", text.c_str());
  return status;
}

// With --slots every step is planned anew; loads without plans need it, unless the trace says it.
std::string ChoosePlans(report::StepSource* source) {
  const bool slots_given = absl::GetFlag(FLAGS_slots) != kSlotsNotGiven;
  if (source->has_plans() && !slots_given) return "";
  PlanShape shape = source->shape();
  PlanOptions options;
  if (!slots_given) {
    if (shape.slots == 0)
      return "the trace has no plans: give --slots S, the redundant slots per rank, and they are "
             "planned for the report";
    absl::SetFlag(&FLAGS_slots, int32_t(shape.slots));
  }
  std::string wrong = TakePlanFlags(&shape, &options);
  if (wrong.empty()) wrong = CheckShape(shape);
  if (wrong.empty()) source->Replan(shape, options);
  return wrong;
}

std::string TakeOptions(const report::StepSource& source, report::ReportOptions* options) {
  options->output = absl::GetFlag(FLAGS_output);
  options->plotly = absl::GetFlag(FLAGS_plotly);
  const uint64_t mib = absl::GetFlag(FLAGS_max_mib);
  if (mib > kMostMib) return absl::StrFormat("--max_mib is %d, must be 0..%d", mib, kMostMib);
  options->data_bytes = (mib ? mib : kDefaultMib) * kMib;
  options->baseline_steps = absl::GetFlag(FLAGS_baseline_steps);
  if (options->baseline_steps > kMostBaselineSteps)
    return absl::StrFormat("--baseline_steps is %d, must be 0..%d", options->baseline_steps,
                           kMostBaselineSteps);
  if (absl::GetFlag(FLAGS_steps).empty()) return "";
  return TakeStepRange(source.steps(), &options->steps);
}

int RunReport(const std::vector<std::string>& positional) {
  if (positional.size() != 1)
    return Fail(kExitUsage, absl::StrFormat("%d traces given, needed is one: ultraepctl report "
                                            "TRACE -o report.html; see --help",
                                            positional.size()));
  if (absl::GetFlag(FLAGS_output).empty())
    return Fail(kExitUsage, "-o is missing: where to write, as in -o report.html");
  report::StepSource source;
  report::ReportOptions options;
  report::ReportResult result;
  std::string wrong = source.Open(positional[0]);
  if (wrong.empty()) wrong = ChoosePlans(&source);
  if (wrong.empty()) wrong = TakeOptions(source, &options);
  if (wrong.empty()) {
    Progress progress("read", source.steps());
    options.progress = [&progress](uint64_t steps) { progress.Done(steps); };
    wrong = report::MakeReport(&source, options, &result);
  }
  if (!wrong.empty()) return Fail(kExitFailed, wrong);
  if (absl::GetFlag(FLAGS_json)) {
    const nlohmann::ordered_json json = {
        {"output", options.output},          {"steps", source.steps()},
        {"steps_lost", source.lost()},       {"steps_in_full", result.embedded},
        {"steps_compared", result.compared}, {"data_bytes", result.data_bytes}};
    std::printf("%s\n", json.dump().c_str());
  } else {
    std::printf("%s: %llu steps, %llu of them in full, %llu planned by others, %.1f MiB of data\n",
                options.output.c_str(), static_cast<unsigned long long>(source.steps()),
                static_cast<unsigned long long>(result.embedded),
                static_cast<unsigned long long>(result.compared),
                double(result.data_bytes) / double(kMib));
    if (source.lost() > 0)
      std::printf("%llu of %llu steps are whole\n", static_cast<unsigned long long>(source.steps()),
                  static_cast<unsigned long long>(source.steps() + source.lost()));
  }
  return kExitOk;
}

}  // namespace

const Command kReportCommand = {
    "report", "draw a trace: one self-contained page of balance, load, replicas and transfer",
    "json output plotly steps max_mib baseline_steps slots epsilon domain_size tile_tokens "
    "relay_hop cost_token_ns cost_expert_us cost_instance_us",
    "usage: ultraepctl report TRACE -o report.html [--steps A-B] [--plotly FILE]\n"
    "                         [--max-mib M] [--baseline-steps N] [--slots S [planner flags]]\n"
    "\n"
    "One page that needs no network: imbalance before and after over time and per layer, load of\n"
    "experts and ranks, replicas, transfer, other planners on the same steps, and single steps in\n"
    "full (report.html#step=123 opens one).\n"
    "\n"
    "TRACE                what `ultraepctl trace` records or imports, or an .npy of loads\n"
    "--output FILE, -o    where to write; a page that is there is replaced when this one is whole\n"
    "--steps A-B          steps to hold in full, besides the worst and an even sample\n"
    "--plotly FILE        plotly.js or plotly.min.js, version 2 (default: that of Debian's\n"
    "                     python3-plotly); it becomes part of the page\n"
    "--max-mib M          data on the page, about, without the library (default 10)\n"
    "--baseline-steps N   steps that the other planners plan as well (default 200; 0: none)\n"
    "--slots S            plan every step anew for S redundant slots per rank, 0..32; needed when\n"
    "                     the trace has no plans and does not know its slots. With it:\n"
    "--epsilon --domain-size --tile-tokens --relay-hop --cost-token-ns --cost-expert-us\n"
    "--cost-instance-us   as in `ultraepctl plan`\n"
    "--json               one line of JSON about the page\n"
    "\n"
    "Exit status: 0 written, 1 failed and nothing written, 2 the command line is not understood.\n",
    RunReport};

}  // namespace ultraep

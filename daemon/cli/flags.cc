#include "daemon/cli/flags.h"

#include <algorithm>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "daemon/cli/command.h"

ABSL_FLAG(bool, json, false, "print one line of JSON instead of a table");
ABSL_FLAG(bool, split, false, "add the tokens of every (source, expert, rank) to the JSON");
ABSL_FLAG(int32_t, slots, ultraep::kSlotsNotGiven, "redundant slots per rank, 0..32");
ABSL_FLAG(double, epsilon, 0.005, "allowed distance of the peak from the lower bound, 0..1");
ABSL_FLAG(uint32_t, domain_size, 0,
          "ranks per scale-up domain, 0..512, a divisor of the ranks; 0: all ranks are one domain");
ABSL_FLAG(uint32_t, tile_tokens, 0, "tokens of one GEMM tile that quotas are rounded to, 0..65536");
ABSL_FLAG(uint32_t, relay_hop, 46,
          "what forwarding through one relay adds, in 1/1024 of an expert's transfer, 0..65536");
ABSL_FLAG(double, cost_token_ns, 0, "nanoseconds an expert takes for one token, 0..1e6");
ABSL_FLAG(double, cost_expert_us, 0, "microseconds one expert's weights take over a link, 0..1e6");
ABSL_FLAG(double, cost_instance_us, 0, "microseconds of one more active expert on a rank, 0..1e6");
ABSL_FLAG(std::string, speeds, "", "relative speed of every rank, as in 1,1,0.5");
ABSL_FLAG(std::string, without_slots, "", "ranks whose slots cannot be used, as in 3,5");
ABSL_FLAG(std::string, socket, "", "attach socket of the daemon");
ABSL_FLAG(bool, quiet, false, "print nothing, only exit");
ABSL_FLAG(std::string, group, "", "only the group of this name");
ABSL_FLAG(bool, verdicts, false, "also every planned step");
ABSL_FLAG(int64_t, history, -1, "events of the time before, at least -1; -1: 10, or all");
ABSL_FLAG(bool, no_follow, false, "end instead of going on with what happens");
ABSL_FLAG(double, interval, 1.0, "seconds between two views, 0.1..3600");
ABSL_FLAG(uint32_t, iterations, 0, "views after which to end, at most 2^32 - 1; 0: never");
ABSL_FLAG(bool, once, false, "one view, then end");
ABSL_FLAG(bool, ascii, false, "no block characters");
ABSL_FLAG(std::string, sort, "name", "order of the groups: name, steps, imbalance, ...");
ABSL_FLAG(double, timeout, 5.0, "seconds to wait for answers, 0.1..600");
ABSL_FLAG(std::string, output, "", "where to write");
ABSL_FLAG(double, seconds, 0, "seconds after which a recording ends, 0..1e9; 0: no limit");
ABSL_FLAG(std::string, steps, "", "how many steps to record, or which ones to take, as in 100-200");
ABSL_FLAG(uint64_t, max_mib, 0, "most MiB to write, 0..2^30; 0: the command's default");
ABSL_FLAG(uint64_t, ring_mib, 0,
          "MiB of memory between planner and recorder, 0..2^30; 0: the daemon's default");
ABSL_FLAG(bool, force, false, "overwrite what is there");
ABSL_FLAG(bool, verify, false, "plan every recorded step again and compare");
ABSL_FLAG(bool, by_rank, false, "one csv row for every source rank");
ABSL_FLAG(uint32_t, ranks, 0, "ranks of the EP group, 1..512");
ABSL_FLAG(uint32_t, experts, 0, "experts of the EP group, 1..4096; 0: as in the file");
ABSL_FLAG(std::string, plotly, "/usr/share/python3-plotly/plotly.js",
          "plotly.js that a report is drawn with");
ABSL_FLAG(uint32_t, baseline_steps, 200, "steps that the other planners plan, 0..100000; 0: none");

namespace ultraep {
namespace {

// Libraries may register flags as well; those are not for our users.
absl::CommandLineFlag* Find(const std::string& name) {
  absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
  return flag && absl::EndsWith(flag->Filename(), "daemon/cli/flags.cc") ? flag : nullptr;
}

// Reads arguments[*at], which begins with '-', and its value, which may be the next one.
void ParseFlag(const std::vector<std::string>& arguments, size_t* at, CommandLine* line) {
  const std::string& argument = arguments[*at];
  const std::string text = argument.substr(argument.rfind("--", 0) == 0 ? 2 : 1);
  const size_t equals = text.find('=');
  std::string name = text.substr(0, equals), value = "true";
  std::replace(name.begin(), name.end(), '-', '_');  // both spellings are common
  if (name == "help" || name == "h") {
    line->help = true;
    return;
  }
  if (name == "o") name = "output";
  if (name == "version") {
    line->version = true;
    return;
  }
  absl::CommandLineFlag* flag = Find(name);
  if (!flag && name.rfind("no", 0) == 0 && equals == std::string::npos) {
    flag = Find(name.substr(2));
    if (flag && !flag->IsOfType<bool>()) flag = nullptr;
    value = "false";
  }
  if (!flag) {
    line->exit_status = kExitUsage;
    line->error = "unknown flag '" + argument + "'";
    return;
  }
  if (equals != std::string::npos) {
    value = text.substr(equals + 1);
  } else if (!flag->IsOfType<bool>()) {
    if (*at + 1 == arguments.size()) {
      line->exit_status = kExitUsage;
      line->error = "flag '--" + name + "' needs a value";
      return;
    }
    value = arguments[++*at];
  }
  line->flags.emplace_back(flag->Name());
  std::string wrong;
  if (flag->ParseFrom(value, &wrong)) return;
  line->exit_status = kExitFailed;
  line->error = "--" + name + " is '" + value + "': " + std::string(flag->Help()) +
                (wrong.empty() ? "" : " (" + wrong + ")");
}

}  // namespace

CommandLine ParseFlags(const std::vector<std::string>& arguments) {
  CommandLine line;
  bool flags_end = false;
  for (size_t at = 0; at < arguments.size() && line.exit_status == 0; ++at) {
    const std::string& argument = arguments[at];
    if (!flags_end && argument == "--")
      flags_end = true;
    else if (!flags_end && argument.size() > 1 && argument[0] == '-')
      ParseFlag(arguments, &at, &line);
    else
      line.positional.push_back(argument);
  }
  return line;
}

}  // namespace ultraep

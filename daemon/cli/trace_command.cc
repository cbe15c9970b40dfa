// `ultraepctl trace`: records, looks at and converts traces.
#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "daemon/cli/command.h"
#include "daemon/cli/flags.h"
#include "daemon/cli/trace_commands.h"
#include "daemon/trace/import.h"
#include "nlohmann/json.hpp"

namespace ultraep {
namespace {

using Json = nlohmann::ordered_json;
using Number = unsigned long long;

int RunTrace(const std::vector<std::string>& positional) {
  const std::string verb = positional.empty() ? "" : positional[0];
  const bool record = verb == "record";
  if (!record && verb != "info" && verb != "convert" && verb != "import")
    return FailTrace(kExitUsage, (verb.empty() ? "nothing" : "'" + verb + "'") +
                                     " is not one of record, info, convert, import; see --help");
  const size_t need = record ? 1 : 2;
  if (positional.size() != need)
    return FailTrace(kExitUsage,
                     absl::StrFormat("%s takes %s, %d arguments are given; see --help", verb,
                                     record ? "no argument (the directory is -o DIR)" : "one path",
                                     positional.size() - 1));
  if (verb != "info" && absl::GetFlag(FLAGS_output).empty())
    return FailTrace(kExitUsage, verb + " needs -o, where to write; see --help");
  if (record) return RecordTrace();
  if (verb == "info") return ShowTrace(positional[1]);
  return verb == "convert" ? ConvertTrace(positional[1]) : ImportTrace(positional[1]);
}

}  // namespace

int FailTrace(int status, const std::string& text) {
  std::fprintf(stderr, "ultraepctl trace: %s\n", text.c_str());
  return status;
}

std::string TakeStepRange(uint64_t steps, trace::StepRange* range) {
  *range = {0, steps};
  const std::string text = absl::GetFlag(FLAGS_steps);
  if (text.empty()) return "";
  const std::vector<std::string> ends = absl::StrSplit(text, '-');
  uint64_t first = 0, last = 0;
  if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) ||
      !absl::SimpleAtoi(ends.back(), &last) || first > last || last >= steps)
    return absl::StrFormat(
        "--steps is '%s', must be A-B or A with A <= B below %d, the number of "
        "steps",
        text, steps);
  *range = {first, last + 1};
  return "";
}

int ConvertTrace(const std::string& path) {
  trace::TraceFiles trace;
  trace::StepRange range;
  trace::Converted done;
  const std::string output = absl::GetFlag(FLAGS_output);
  const bool force = absl::GetFlag(FLAGS_force);
  std::string wrong = trace.Open(path);
  if (wrong.empty()) wrong = TakeStepRange(trace.steps(), &range);
  if (!wrong.empty()) return FailTrace(kExitFailed, wrong);
  if (absl::EndsWithIgnoreCase(output, ".npy"))
    wrong = trace::ToNpy(&trace, range, output, force, &done);
  else if (absl::EndsWithIgnoreCase(output, ".csv"))
    wrong = trace::ToCsv(&trace, range, output, force, absl::GetFlag(FLAGS_by_rank), &done);
  else
    wrong = trace::ToDirectory(&trace, range, output, force, &done);
  if (!wrong.empty()) return FailTrace(kExitFailed, wrong);
  if (absl::GetFlag(FLAGS_json)) {
    const Json json = {{"output", output},
                       {"steps", done.steps},
                       {"rounds", done.rounds},
                       {"layers", done.layers},
                       {"steps_left_out", done.left_out}};
    std::printf("%s\n", json.dump().c_str());
    return kExitOk;
  }
  std::printf("%s: %llu steps", output.c_str(), static_cast<Number>(done.steps));
  if (done.rounds)
    std::printf(" = %llu rounds of %zu layers; %llu steps of rounds that are not whole left out",
                static_cast<Number>(done.rounds), done.layers.size(),
                static_cast<Number>(done.left_out));
  std::printf("\n");
  return kExitOk;
}

int ImportTrace(const std::string& path) {
  trace::ImportOptions options;
  options.ranks = absl::GetFlag(FLAGS_ranks);
  options.experts = absl::GetFlag(FLAGS_experts);
  const int32_t slots = absl::GetFlag(FLAGS_slots);
  options.slots = slots == kSlotsNotGiven ? 0 : uint32_t(slots);
  options.directory = absl::GetFlag(FLAGS_output);
  options.force = absl::GetFlag(FLAGS_force);
  trace::ImportResult result;
  const std::string wrong = absl::EndsWithIgnoreCase(path, ".npy")
                                ? trace::ImportCounts(path, options, &result)
                                : trace::ImportCsv(path, options, &result);
  if (!wrong.empty()) return FailTrace(kExitFailed, wrong);
  const trace::TraceInfo& info = result.info;
  if (absl::GetFlag(FLAGS_json)) {
    const Json json = {{"output", options.directory},   {"steps", info.steps},
                       {"layers", info.layers},         {"ranks", info.shape.ranks},
                       {"experts", info.shape.experts}, {"empty_left_out", result.empty}};
    std::printf("%s\n", json.dump().c_str());
    return kExitOk;
  }
  std::printf("%s: %llu steps, %u ranks, %u experts", options.directory.c_str(),
              static_cast<Number>(info.steps), info.shape.ranks, info.shape.experts);
  if (result.empty)
    std::printf("; %llu (step, layer) without any token left out",
                static_cast<Number>(result.empty));
  std::printf("\n");
  return kExitOk;
}

constexpr Verb kVerbs[] = {
    {"record", "socket json output group seconds steps max_mib ring_mib force"},
    {"info", "json verify"},
    {"convert", "json output steps by_rank force"},
    {"import", "json output ranks experts slots force"},
};

const Command kTraceCommand = {
    "trace",
    "record loads and plans of a running group; look at traces and convert them",
    "socket json output group seconds steps max_mib ring_mib force verify by_rank ranks experts "
    "slots",
    "usage: ultraepctl trace record -o DIR [--group NAME] [--seconds S] [--steps N]\n"
    "                        [--max-mib M] [--ring-mib M] [--force] [--socket PATH]\n"
    "       ultraepctl trace info TRACE [--verify]\n"
    "       ultraepctl trace convert TRACE -o OUT [--steps A-B] [--by-rank] [--force]\n"
    "       ultraepctl trace import FILE --ranks R -o DIR [--experts E] [--slots S] [--force]\n"
    "\n"
    "A TRACE is a directory that `trace record` made, or an .npy of loads: [steps, ranks, "
    "experts]\n"
    "or [steps, layers, ranks, experts]. With --json each prints one line of JSON.\n"
    "\n"
    "record: every step of a group from now on, its load and its plan, until Ctrl-C or a limit.\n"
    "The planner never waits for it: steps for which there is no room are dropped and counted.\n"
    "--output DIR, -o     a new or empty directory; --force overwrites a trace in it\n"
    "--group NAME         which group, when you have several\n"
    "--seconds S          stop after so long (default 0: no limit)\n"
    "--steps N            stop after N steps (default: no limit)\n"
    "--max-mib M          stop before the directory holds more (default 1024)\n"
    "--ring-mib M         memory between planner and recorder (default 0: the daemon's)\n"
    "--socket PATH        else $ULTRAEP_SOCKET, else /run/ultraep/ultraepd.sock\n"
    "\n"
    "info: shape, time, imbalance before and after, verdicts, replicas, missed steps. The mean\n"
    "imbalance is the sum of all peaks over the sum of all means, as in `ultraepctl status`; p50,\n"
    "p99 and worst are of the single steps.\n"
    "--verify             plan every recorded step again: exit 1 if a plan is not the same bit for "
    "bit\n"
    "\n"
    "convert: OUT.npy is [rounds, layers, ranks, experts] for `ultraep-replay --trace OUT.npy`:\n"
    "whole passes over the layers, others are left out and counted. OUT.csv has\n"
    "step,layer,expert,count, with --by-rank step,layer,rank,expert,count, without rows of 0\n"
    "tokens. Any other OUT is a trace directory again.\n"
    "--steps A-B          only these, counted from 0\n"
    "\n"
    "import: FILE.npy is SGLang's logical_count, [layers, experts] or [steps, layers, experts];\n"
    "from its .pt in Python:\n"
    "  d = torch.load('F.pt', map_location='cpu', weights_only=True)\n"
    "  numpy.save('F.npy', d['logical_count'].numpy())\n"
    "Any other FILE is csv: layer,expert,count, with a header row or none; columns step and rank\n"
    "may come with them (also layer_id, expert_id). Without a column rank an expert's tokens are\n"
    "split evenly over the --ranks sources, the remainder to the first ones: who sent them is not\n"
    "known, and plans do not depend on it. (step, layer) without any token are left out.\n"
    "--ranks R            ranks of the EP group, 1..512\n"
    "--experts E          default: the highest in the file and so many more that ranks divide it\n"
    "--slots S            redundant slots per rank, 0..32, for whoever plans it later\n"
    "\n"
    "Exit status: 0 done, 1 failed or plans differ, 2 the command line is not understood.\n",
    RunTrace,
    kVerbs};

}  // namespace ultraep

#include "plugin/examples/replay/options.h"

#include <sys/un.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string_view>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "protocol/check_plan.h"
#include "protocol/limits.h"

ABSL_FLAG(uint32_t, ranks, 8, "rank processes, 1..512; fixed by a trace");
ABSL_FLAG(uint32_t, experts, 64,
          "logical experts per layer, a multiple of --ranks, at most 4096; fixed by a trace");
ABSL_FLAG(uint32_t, slots, 2, "redundant slots per rank, 0..32; each costs one expert's weights");
ABSL_FLAG(uint32_t, layers, 2, "MoE layers per step, 1..1024; fixed by a trace");
ABSL_FLAG(uint32_t, steps, 150, "steps, at least 1; a trace gives all its steps or the first ones");
ABSL_FLAG(uint32_t, tokens, 1024, "tokens per rank and step, 0..1048576; not with --trace");
ABSL_FLAG(uint32_t, top_k, 4,
          "different experts per token, 1..64 and at most --experts; not with --trace");
ABSL_FLAG(uint32_t, hidden, 32,
          "width of a token in floats, 1..65536; time and memory grow with it");
ABSL_FLAG(uint32_t, ffn, 32, "inner width of an expert in floats, 1..65536; time grows with it");
ABSL_FLAG(uint32_t, window, 4, "steps a rank may have open at once, 1..64");
ABSL_FLAG(uint64_t, seed, 1, "all random numbers follow from it");
ABSL_FLAG(std::string, trace, "",
          "replay the loads of this .npy file, [steps, layers, ranks, experts] or [steps, ranks, "
          "experts] tokens of type uint32, int32 or int64, or of this recording");
ABSL_FLAG(std::string, profile, ULTRAEP_REPLAY_PROFILE,
          "expert popularities: one line per layer, one positive number per expert");
ABSL_FLAG(std::string, socket, "",
          "attach socket of the daemon, at most 107 bytes; empty: $ULTRAEP_SOCKET, else "
          "/run/ultraep/ultraepd.sock");
ABSL_FLAG(
    uint32_t, join_timeout_s, 30,
    "seconds to wait for the daemon and the group, 1..86400; then the run goes on unbalanced");
ABSL_FLAG(uint32_t, step_timeout_s, 60, "seconds a rank waits for another one, 1..86400");
ABSL_FLAG(bool, json, false, "last line on stdout is the result as JSON, the table goes to stderr");
ABSL_FLAG(bool, forever, false, "repeat until SIGINT or SIGTERM, then end with the report");
ABSL_FLAG(bool, respawn, false,
          "start a killed rank again and go on: the step it died in is lost, as is one in which a "
          "rank could not follow a plan; costs one more barrier per step");
ABSL_FLAG(
    bool, train, false,
    "a backward after every step: slots are restored, replicas' gradients reduced and compared; "
    "gradients double the memory of weights and slots");

namespace ultraep::replay {
namespace {

constexpr const char* kUsage =
    "ultraep-replay: an MoE layer on CPU ranks, balanced by ultraepd and checked bit for bit\n\n"
    "usage: ultraep-replay [--socket PATH] [--trace FILE.npy] [flags]\n\n"
    "Exit status: 0 done and no token differs, 1 cannot run, 2 wrong usage, 3 a rank died,\n"
    "4 a rank could not follow a plan, 5 a token's result differs. With --respawn a killed\n"
    "rank and such a plan cost a step, which is counted as lost; every other one is checked.\n"
    "\nflags:\n";

std::set<std::string>& GivenFlags() {
  static std::set<std::string> names;
  return names;
}

[[noreturn]] void Refuse(const std::string& wrong) {
  std::fprintf(stderr, "ultraep-replay: %s\nTry: ultraep-replay --help\n", wrong.c_str());
  std::exit(2);
}

bool IsOurs(const absl::CommandLineFlag& flag) {
  return absl::EndsWith(flag.Filename(), "replay/options.cc");
}

void PrintHelp() {
  std::printf("%s", kUsage);
  std::map<std::string, const absl::CommandLineFlag*> ours;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (IsOurs(*flag)) ours[std::string(name)] = flag;
  }
  for (const auto& [name, flag] : ours) {
    const std::string standard = flag->DefaultValue();
    std::printf("  --%s (default %s)\n      %s\n", name.c_str(),
                standard.empty() ? "empty" : standard.c_str(), flag->Help().c_str());
  }
}

// One argument, and its value where that is the next one. Abseil's own parser ends the process with
// status 1; wrong usage is 2 here. Returns the index of the last argument used.
int ParseArgument(int at, int argc, char** argv) {
  const std::string_view argument = argv[at];
  if (argument.size() < 3 || argument.substr(0, 2) != "--")
    Refuse("unexpected argument '" + std::string(argument) + "'");
  const size_t equals = argument.find('=');
  std::string name(argument.substr(2, equals == argument.npos ? equals : equals - 2));
  std::string value = equals == argument.npos ? "" : std::string(argument.substr(equals + 1));
  absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
  if ((!flag || !IsOurs(*flag)) && name.compare(0, 2, "no") == 0 && equals == argument.npos) {
    name = name.substr(2);
    flag = absl::FindCommandLineFlag(name);
    if (flag && !flag->IsOfType<bool>()) flag = nullptr;
    value = "false";
  } else if (flag && equals == argument.npos) {
    if (flag->IsOfType<bool>()) {
      value = "true";
    } else if (at + 1 < argc) {
      value = argv[++at];
    } else {
      Refuse("--" + name + " needs a value");
    }
  }
  if (!flag || !IsOurs(*flag)) Refuse("unknown flag '" + std::string(argument) + "'");
  std::string error;
  if (!flag->ParseFrom(value, &error))
    Refuse("--" + name + " is '" + value + "', which is not a value of its type (" + flag->Help() +
           ")");
  GivenFlags().insert(name);
  return at;
}

// Empty when value lies in low..high.
std::string CheckRange(const char* name, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return "";
  return std::string("--") + name + " is " + std::to_string(value) + ", must be " +
         std::to_string(low) + ".." + std::to_string(high);
}

}  // namespace

Options ParseOptions(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      PrintHelp();
      std::exit(0);
    }
  }
  for (int i = 1; i < argc; ++i) i = ParseArgument(i, argc, argv);

  Options o;
  o.trace = absl::GetFlag(FLAGS_trace);
  o.profile = absl::GetFlag(FLAGS_profile);
  o.socket = absl::GetFlag(FLAGS_socket);
  o.shape = {absl::GetFlag(FLAGS_ranks), absl::GetFlag(FLAGS_experts), absl::GetFlag(FLAGS_slots),
             0};
  o.expert = {absl::GetFlag(FLAGS_hidden), absl::GetFlag(FLAGS_ffn)};
  o.layers = absl::GetFlag(FLAGS_layers);
  o.steps = absl::GetFlag(FLAGS_steps);
  o.tokens = absl::GetFlag(FLAGS_tokens);
  o.top_k = absl::GetFlag(FLAGS_top_k);
  o.window = absl::GetFlag(FLAGS_window);
  o.seed = absl::GetFlag(FLAGS_seed);
  o.join_timeout_s = absl::GetFlag(FLAGS_join_timeout_s);
  o.step_timeout_s = absl::GetFlag(FLAGS_step_timeout_s);
  o.json = absl::GetFlag(FLAGS_json);
  o.forever = absl::GetFlag(FLAGS_forever);
  o.respawn = absl::GetFlag(FLAGS_respawn);
  o.train = absl::GetFlag(FLAGS_train);
  if (std::string wrong = CheckOptions(o); o.trace.empty() && !wrong.empty()) Refuse(wrong);
  if (!o.trace.empty() && GivenFlags().count("profile"))
    Refuse("--trace and --profile exclude each other: leave one out");
  return o;
}

std::string FixToTrace(uint32_t steps, uint32_t layers, uint32_t ranks, uint32_t experts,
                       Options* options) {
  const std::set<std::string>& given = GivenFlags();
  for (const char* name : {"tokens", "top_k"}) {
    if (given.count(name))
      return std::string("--") + name +
             " has no meaning with --trace, where each routed copy is one token: leave it out";
  }
  struct {
    const char* name;
    uint32_t* value;
    uint32_t fixed;
  } const all[] = {{"ranks", &options->shape.ranks, ranks},
                   {"experts", &options->shape.experts, experts},
                   {"layers", &options->layers, layers}};
  for (const auto& one : all) {
    if (given.count(one.name) && *one.value != one.fixed)
      return std::string("--") + one.name + " is " + std::to_string(*one.value) +
             ", the trace has " + std::to_string(one.fixed) + ": leave it out";
    *one.value = one.fixed;
  }
  if (given.count("steps") && options->steps > steps)
    return "--steps is " + std::to_string(options->steps) + ", the trace has " +
           std::to_string(steps) + ": at most that, or --forever to repeat";
  if (!given.count("steps")) options->steps = steps;
  options->tokens = 0;
  options->top_k = 1;
  return CheckOptions(*options);
}

std::string CheckOptions(const Options& o) {
  constexpr uint32_t kDay = 86400;
  for (const std::string& wrong :
       {CheckRange("slots", o.shape.slots, 0, kMaxSlotsPerRank),
        CheckRange("layers", o.layers, 1, 1024), CheckRange("steps", o.steps, 1, UINT32_MAX),
        CheckRange("tokens", o.tokens, 0, 1 << 20), CheckRange("top_k", o.top_k, 1, 64),
        CheckRange("hidden", o.expert.hidden, 1, 65536), CheckRange("ffn", o.expert.ffn, 1, 65536),
        CheckRange("window", o.window, 1, kMaxWindow),
        CheckRange("join_timeout_s", o.join_timeout_s, 1, kDay),
        CheckRange("step_timeout_s", o.step_timeout_s, 1, kDay)}) {
    if (!wrong.empty()) return wrong;
  }
  if (std::string wrong = CheckShape(o.shape); !wrong.empty()) return "--" + wrong;
  if (o.top_k > o.shape.experts)
    return "--top_k is " + std::to_string(o.top_k) + ", must be at most --experts (" +
           std::to_string(o.shape.experts) + ")";
  constexpr size_t kLongestPath = sizeof(sockaddr_un::sun_path) - 1;
  if (o.socket.size() > kLongestPath)
    return "--socket has " + std::to_string(o.socket.size()) + " bytes, must have at most " +
           std::to_string(kLongestPath) + ": use a shorter path";
  return "";
}

}  // namespace ultraep::replay

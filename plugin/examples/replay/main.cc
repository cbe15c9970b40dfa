// ultraep-replay: options, loads, shared memory, one process per rank, report.
#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "plugin/examples/replay/backward.h"
#include "plugin/examples/replay/loads.h"
#include "plugin/examples/replay/options.h"
#include "plugin/examples/replay/rank_process.h"
#include "plugin/examples/replay/report.h"
#include "plugin/examples/replay/shared_state.h"
#include "plugin/examples/replay/supervise.h"

using namespace ultraep::replay;

namespace {

enum Exit : int {
  kDone = 0,
  kCannotRun = 1,
  kWrongUse = 2,
  kRankDied = 3,
  kFailed = 4,
  kDiffers = 5
};

int Say(int exit, const std::string& text) {
  std::fprintf(stderr, "ultraep-replay: %s\n", text.c_str());
  return exit;
}

// Reads the trace or the profile; a trace fixes options. Empty text when done.
std::string MakeLoads(Options* options, std::unique_ptr<LoadSource>* loads) {
  if (!options->trace.empty()) {
    Trace trace;
    if (std::string wrong = ReadTrace(options->trace, &trace); !wrong.empty()) return wrong;
    if (std::string wrong =
            FixToTrace(trace.steps, trace.layers, trace.ranks, trace.experts, options);
        !wrong.empty())
      return wrong;
    *loads = MakeTraceLoads(std::move(trace), options->seed);
    return "";
  }
  Profile profile;
  if (std::string wrong = ReadProfile(options->profile, &profile); !wrong.empty()) return wrong;
  *loads = MakeProfileLoads(Resample(profile, options->shape.experts),
                            {options->layers, options->tokens, options->top_k, options->seed});
  return "";
}

std::string CheckMemory(const SharedSizes& sizes) {
  const uint64_t need = SharedState::BytesFor(sizes);
  const uint64_t have = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  if (need <= have / 2) return "";
  return "the run needs up to " + std::to_string(need >> 20) +
         " MiB of shared memory, allowed is half of this machine's " + std::to_string(have >> 20) +
         " MiB: use fewer tokens, ranks or experts, or smaller --hidden and --ffn";
}

std::string CheckTraining(const Options& options, uint64_t max_ids) {
  const uint64_t most = max_ids * options.shape.ranks;
  if (!options.train || most <= kMostTrainTokens) return "";
  return "a step may send " + std::to_string(most) +
         " tokens to one expert, --train compares sums of at most " +
         std::to_string(kMostTrainTokens) + ": use fewer tokens or ranks";
}

GroupIdentity NewGroup() {
  GroupIdentity group;
  group.name = "replay-" + std::to_string(getpid());
  if (getrandom(group.nonce.data(), group.nonce.size(), 0) != ssize_t(group.nonce.size()))
    group.nonce = {uint8_t(getpid()), uint8_t(getpid() >> 8)};  // the name tells them apart as well
  return group;
}

int ExitOf(const RunOutcome& outcome, const Report& report) {
  if (outcome.dead_rank >= 0) return kRankDied;
  if (outcome.failed) return kFailed;
  if (report.mismatches) return kDiffers;
  return outcome.broken ? kCannotRun : kDone;
}

}  // namespace

int main(int argc, char** argv) {
  Options options = ParseOptions(argc, argv);
  std::unique_ptr<LoadSource> loads;
  if (std::string wrong = MakeLoads(&options, &loads); !wrong.empty()) return Say(kWrongUse, wrong);
  const SharedSizes sizes = {options.shape, options.layers, options.expert, loads->max_ids()};
  if (std::string wrong = CheckMemory(sizes); !wrong.empty()) return Say(kWrongUse, wrong);
  if (std::string wrong = CheckTraining(options, loads->max_ids()); !wrong.empty())
    return Say(kWrongUse, wrong);
  SharedState shared(sizes);
  if (std::string wrong = shared.Map(); !wrong.empty()) return Say(kCannotRun, wrong);

  const GroupIdentity group = NewGroup();
  const RunOutcome outcome = RunRanks(options, &shared, [&](uint32_t rank) {
    return RunRank(options, group, rank, loads.get(), &shared);
  });

  const Report report = MakeReport(&shared);
  if (std::string trouble = TroubleOf(&shared, outcome, options); !trouble.empty())
    std::fprintf(stderr, "%s", trouble.c_str());
  std::fprintf(options.json ? stderr : stdout, "%s", TableOf(report, options).c_str());
  if (options.json) std::printf("%s\n", JsonOf(report).c_str());
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
    std::fprintf(stderr, "ultraep-replay: cannot write to standard output\n");
    return 1;
  }
  return ExitOf(outcome, report);
}

// Sessions, verdicts and generations under a seed: one thread, virtual time, every interleaving at
// every named point chosen by the seed; processes are killed, stopped and restarted.
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "daemon/log.h"
#include "tests/simulation/machine.h"
#include "tests/support/test_daemon.h"

namespace ultraep::simulation {
namespace {

constexpr const char* kHelp =
    "usage: simulation [--seeds N] [--first N] | --seed N [--trace]\n"
    "  --seeds N   how many seeds, default 1000 (50000 with ULTRAEP_NIGHTLY set)\n"
    "  --first N   the first of them, default 1\n"
    "  --seed N    this one alone\n"
    "  --trace     prints every event: virtual time, process and thread, point\n"
    "exit status: 0 all held, 1 a rule is broken or too little was seen, 2 wrong usage\n";

// Runs of which something was seen, and totals.
struct Sum {
  uint64_t runs = 0, steps = 0;
  uint64_t restarts = 0, respawns = 0, fenced = 0, failed = 0, deadlines = 0, dead = 0;
  uint64_t second = 0, third = 0, planned_on_two = 0;
  uint64_t plans = 0, fallbacks = 0, declined = 0;

  void Add(const Report& r) {
    const Coverage& c = r.coverage;
    ++runs;
    steps += r.steps;
    restarts += c.daemon_restarts > 0;
    respawns += c.respawns > 0;
    fenced += c.fenced > 0;
    failed += c.failed > 0;
    deadlines += c.deadlines > 0;
    dead += c.dead > 0;
    second += c.opened > 1;
    third += c.opened > 2;
    planned_on_two += c.planned_on > 1;
    plans += c.plans;
    fallbacks += c.fallbacks;
    declined += c.declined;
  }
  // A simulation that explores nothing proves nothing. True when each kind was seen.
  bool Print() const {
    std::printf("%llu runs, %llu scheduling steps; verdicts: %llu PLAN, %llu FALLBACK, %llu declined\n",
                (unsigned long long)runs, (unsigned long long)steps, (unsigned long long)plans,
                (unsigned long long)fallbacks, (unsigned long long)declined);
    bool all = true;
    auto line = [&](const char* what, uint64_t count) {
      std::printf("  %6llu runs saw %s\n", (unsigned long long)count, what);
      all &= count > 0;
    };
    line("a daemon restarted", restarts);
    line("a rank respawned", respawns);
    line("a rank fenced", fenced);
    line("FAILED", failed);
    line("FALLBACK by the solve deadline", deadlines);
    line("a DEAD generation", dead);
    line("a second generation open", second);
    line("a third generation open", third);
    line("plans on two generations or more", planned_on_two);
    return all;
  }
};

struct Options {
  uint64_t seeds = std::getenv("ULTRAEP_NIGHTLY") ? 50'000 : 1'000;
  uint64_t first = 1, seed = 0;
  bool trace = false, help = false;
};

bool Parse(int argc, char** argv, Options* options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    uint64_t* value = flag == "--seeds"   ? &options->seeds
                      : flag == "--first" ? &options->first
                      : flag == "--seed"  ? &options->seed
                                          : nullptr;
    if (flag == "--trace" || flag == "--help") {
      (flag == "--trace" ? options->trace : options->help) = true;
      continue;
    }
    const std::string_view text = i + 1 < argc ? argv[i + 1] : "";
    if (!value || text.empty()) return false;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
    if (error != std::errc() || end != text.data() + text.size() || *value == 0) return false;
    ++i;
  }
  return !(options->trace && !options->seed);
}

uint64_t running_seed = 0;

// A crash or an endless loop of the product ends the program; its seed is said nonetheless.
void Ends(int signal) {
  char text[200];
  const int size = std::snprintf(
      text, sizeof text, "simulation: seed %llu: %s\nreplay: simulation --seed %llu --trace\n",
      (unsigned long long)running_seed,
      signal == SIGALRM ? "runs on without a point or a wait" : "crashes",
      (unsigned long long)running_seed);
  if (write(STDERR_FILENO, text, size_t(size)) < 0) _exit(1);
  _exit(1);
}

void CatchTheEnd() {
  static char stack[64 * 1024];  // the fiber's own may be what has overflowed
  stack_t other{};
  other.ss_sp = stack;
  other.ss_size = sizeof stack;
  sigaltstack(&other, nullptr);
  struct sigaction action {};
  action.sa_handler = Ends;
  action.sa_flags = SA_ONSTACK;
  for (int signal : {SIGALRM, SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL})
    sigaction(signal, &action, nullptr);
}

Report RunSeed(uint64_t seed, bool trace, const std::string& socket) {
  running_seed = seed;
  alarm(60);
  Scenario scenario = MakeScenario(seed);
  scenario.world.trace = trace;
  Machine machine(scenario, socket);
  return machine.Run();
}

bool Held(uint64_t seed, const Report& report) {
  if (report.violation.empty()) return true;
  std::printf("%s\nsimulation: seed %llu: %s\nreplay: simulation --seed %llu --trace\n",
              report.tail.c_str(), (unsigned long long)seed, report.violation.c_str(),
              (unsigned long long)seed);
  return false;
}

int Main(const Options& options) {
  CatchTheEnd();
  SetLogLevel(LogLevel::kError);
  const test::TemporaryDirectory directory;
  const std::string socket = directory.path() + "/daemon.sock";
  const uint64_t first = options.seed ? options.seed : options.first;
  const Report once = RunSeed(first, options.trace, socket);
  if (!Held(first, once)) return 1;
  const Report again = RunSeed(first, false, socket);
  if (once.digest != again.digest || once.steps != again.steps) {
    std::printf("simulation: seed %llu does not replay: another run of it took another way\n",
                (unsigned long long)first);
    return 1;
  }
  Sum sum;
  sum.Add(once);
  for (uint64_t seed = first + 1; !options.seed && seed < first + options.seeds; ++seed) {
    const Report report = RunSeed(seed, false, socket);
    if (!Held(seed, report)) return 1;
    sum.Add(report);
  }
  const bool all = sum.Print();
  if (all || options.seed || options.seeds < 1000) return 0;
  std::printf("simulation: something never happened: it explores too little\n");
  return 1;
}

}  // namespace
}  // namespace ultraep::simulation

int main(int argc, char** argv) {
  ultraep::simulation::Options options;
  if (!ultraep::simulation::Parse(argc, argv, &options)) {
    std::fprintf(stderr, "simulation: wrong usage\n%s", ultraep::simulation::kHelp);
    return 2;
  }
  if (options.help) return std::printf("%s", ultraep::simulation::kHelp) < 0;
  return ultraep::simulation::Main(options);
}

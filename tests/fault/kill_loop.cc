// Ranks and the daemon die at random instants and at every named test point, while every live rank
// checks every word it is given. See usage for what may be asked; exit status 0: nothing was wrong.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "protocol/transport/waiting.h"
#include "tests/fault/phases.h"

namespace ultraep::test {
namespace {

constexpr const char* kUsage =
    "usage: kill_loop ULTRAEPD SOURCE_DIR [flags]\n"
    "  --rank-kills N    ranks killed at random instants, 0..; new processes take their place\n"
    "  --daemon-kills N  daemons killed at random instants while no rank dies\n"
    "  --mixed N         ranks killed while daemons are killed too, N / 20 of them\n"
    "  --points          each role is killed exactly at every point it passes\n"
    "  --stops N         a rank (every fourth time the daemon) stands still for longer than a "
    "lease\n"
    "  --groups N        groups of four ranks at a time, 1..8 (default 3)\n"
    "  --seed N          of delays and loads (default: from the clock)\n"
    "  --json            the summary as one line on stdout\n"
    "  --nightly         at least 10^6 rank and 1,000 daemon kills\n";

struct Options {
  std::string daemon, source;
  uint64_t rank_kills = 0, daemon_kills = 0, mixed = 0, stops = 0, seed = 0;
  uint32_t groups = 3;
  bool points = false, json = false;
};

bool Parse(int argc, char** argv, Options* o) {
  if (argc < 3) return false;
  o->daemon = argv[1];
  o->source = argv[2];
  o->seed = NowNs() % 1'000'000'007;
  bool nightly = false;
  for (int i = 3; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--points" || flag == "--json" || flag == "--nightly") {
      (flag == "--points" ? o->points : flag == "--json" ? o->json : nightly) = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const uint64_t value = std::strtoull(argv[++i], nullptr, 10);
    if (flag == "--rank-kills")
      o->rank_kills = value;
    else if (flag == "--daemon-kills")
      o->daemon_kills = value;
    else if (flag == "--mixed")
      o->mixed = value;
    else if (flag == "--stops")
      o->stops = value;
    else if (flag == "--seed")
      o->seed = value;
    else if (flag == "--groups")
      o->groups = uint32_t(std::clamp<uint64_t>(value, 1, kMostGroups));
    else
      return false;
  }
  if (nightly) {
    o->rank_kills = std::max<uint64_t>(o->rank_kills, 1'000'000);
    o->daemon_kills = std::max<uint64_t>(o->daemon_kills, 1'000);
  }
  return true;
}

// Different windows and slot sets side by side; one group with shards of two chunks.
std::vector<LoopConfig> Configs(uint32_t groups, bool restore_declined) {
  std::vector<LoopConfig> all(groups);
  for (uint32_t g = 0; g < groups; ++g) {
    const uint32_t windows[] = {2, 3, 1, 4}, sets[] = {1, 2, 1, 1};
    all[g].window = windows[g % 4];
    all[g].slot_sets = sets[g % 4];
    all[g].experts = g % 2 ? 16 : 8;
    if (g % 4 == 0) all[g].shard_bytes[0] = 300'001;
    all[g].restore_declined = restore_declined;
  }
  return all;
}

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, size_t(q * double(values.size())))];
}

std::string Times(const char* name, const std::vector<double>& ms) {
  char text[160];
  std::snprintf(text, sizeof text, "\"%s\":{\"count\":%zu,\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}",
                name, ms.size(), Quantile(ms, 0.5), Quantile(ms, 0.99), Quantile(ms, 1));
  return text;
}

void Summary(const Options& o, SharedState* shared, const Totals& totals, double seconds) {
  uint64_t sum[8] = {};
  for (GroupState& g : shared->groups) {
    const Counters& c = g.counters;
    const std::atomic<uint64_t>* const all[] = {&c.steps,         &c.planned,          &c.fallback,
                                                &c.declined,      &c.failed,           &c.restored,
                                                &c.slots_checked, &c.gradients_checked};
    for (int i = 0; i < 8; ++i) sum[i] += *all[i];
  }
  const uint32_t texts = std::min(shared->violations.load(), SharedState::kTexts);
  uint32_t hangs = 0;
  for (uint32_t i = 0; i < texts; ++i) hangs += std::strstr(shared->text[i], "HANG") != nullptr;
  std::string points;
  for (const auto& [name, hits] : totals.points)
    points += (points.empty() ? "\"" : ",\"") + name + "\":" + std::to_string(hits);
  std::fprintf(
      o.json ? stdout : stderr,
      "{\"seed\":%lu,\"seconds\":%.1f,\"kills\":%lu,\"restarts\":%lu,\"stops\":%lu,\"steps\":%lu,"
      "\"planned\":%lu,\"fallback\":%lu,\"declined\":%lu,\"failed\":%lu,\"restored\":%lu,"
      "\"slots_checked\":%lu,\"gradients_checked\":%lu,\"pairs_read\":%lu,\"violations\":%u,"
      "\"hangs\":%u,%s,%s,"
      "\"points\":{%s}}\n",
      o.seed, seconds, totals.rank_kills, totals.restarts, totals.stops, sum[0], sum[1], sum[2],
      sum[3], sum[4], sum[5], sum[6], sum[7], shared->pairs_read.load(), shared->violations.load(),
      hangs, Times("reattach_ms", totals.reattach_ms).c_str(),
      Times("recovery_ms", totals.recovery_ms).c_str(), points.c_str());
}

bool RunPhases(const Options& o, SharedState* shared, Totals* totals) {
  bool fine = true;
  if (o.points || o.daemon_kills || o.rank_kills || o.mixed) {
    Fleet fleet(shared, o.daemon, o.seed, 5000);
    if (fine && o.points) {
      fleet.Start(Configs(o.groups, false), "points");
      fine = RunPoints(&fleet, {1, 2, 7, 0}, totals);
    }
    if (fine && o.daemon_kills) {
      fleet.Start(Configs(o.groups, true), "daemons");
      fine = RunKills(&fleet, {0, o.daemon_kills}, totals);
    }
    if (fine && o.mixed) {
      fleet.Start(Configs(o.groups, false), "mixed");
      fine = RunKills(&fleet, {o.mixed, o.mixed / 20}, totals);
    }
    if (fine && o.rank_kills) {
      fleet.Start(Configs(o.groups, false), "ranks");
      fine = RunKills(&fleet, {o.rank_kills, 0}, totals);
    }
    if (!fine) fleet.Describe();
  }
  if (fine && o.stops) {
    Fleet fleet(shared, o.daemon, o.seed, 500);
    fleet.Start(Configs(o.groups, false), "stops");
    fine = RunStops(&fleet, o.stops, 500, totals);
    if (!fine) fleet.Describe();
  }
  return fine;
}

int Main(const Options& o) {
  void* memory = mmap(nullptr, sizeof(SharedState), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return std::perror("mmap"), 1;
  auto* shared = static_cast<SharedState*>(memory);  // zero is every word's first value
  Totals totals;
  if (const std::string differ = PointsDiffer(o.source); !differ.empty())
    Violation(shared, "the table of test points is out of date:%s", differ.c_str());
  const uint64_t start = NowNs();
  bool fine = !shared->violations && RunPhases(o, shared, &totals);
  if (fine && o.points)
    if (const std::string missed = PointsMissed(totals); !missed.empty())
      Violation(shared, "points that no kill has hit:%s", missed.c_str());
  fine = fine && !shared->violations;
  Summary(o, shared, totals, double(NowNs() - start) / 1e9);
  for (uint32_t i = 0; i < std::min(shared->violations.load(), SharedState::kTexts); ++i)
    std::fprintf(stderr, "kill_loop: VIOLATION (seed %lu): %s\n", o.seed, shared->text[i]);
  return fine ? 0 : 1;
}

}  // namespace
}  // namespace ultraep::test

int main(int argc, char** argv) {
  ultraep::test::Options options;
  if (!ultraep::test::Parse(argc, argv, &options)) {
    std::fputs(ultraep::test::kUsage, stderr);
    return 2;
  }
  return ultraep::test::Main(options);
}

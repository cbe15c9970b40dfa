// ultraep-bench: flags, and which benchmark to run.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "protocol/check_plan.h"
#include "tests/bench/bench.h"

ABSL_FLAG(uint32_t, ranks, 64, "ranks of the EP group, 1..512");
ABSL_FLAG(uint32_t, experts, 256, "logical experts, 1..4096, a multiple of the ranks");
ABSL_FLAG(uint32_t, slots, 2, "redundant slots per rank, 0..32");
ABSL_FLAG(uint32_t, domain_size, 0, "ranks per scale-up domain, 0..512; 0: all are one domain");
ABSL_FLAG(double, imbalance, 2, "max/mean rank load that A, B and C aim at, 1..64");
ABSL_FLAG(std::string, generator, "A",
          "A: UltraEP's test loads, one dominant expert per rank; B: Zipf over all experts; C: "
          "log-normal with deviating source ranks; dsv3: DeepSeek-V3 layers (256 experts or a "
          "divisor)");
ABSL_FLAG(uint32_t, seeds, 5, "loads drawn, 1..10000; dsv3: at most its 58 layers");
ABSL_FLAG(uint32_t, tokens, 8192, "tokens per source rank, 0..1048576");
ABSL_FLAG(uint32_t, top_k, 8, "experts per token, 1..64");
ABSL_FLAG(double, epsilon, 0.005, "of our planner: how far above the bound it may stay, 0..1");
ABSL_FLAG(uint32_t, repeats, 51, "times each load is solved for the timing, 1..100000");
ABSL_FLAG(uint64_t, expert_bytes, 37748736, "bytes of one expert's weights, 1..1073741824");
ABSL_FLAG(double, link_gb_s, 710, "GB/s of a rank's link in the modelled network, 0.001..4000");
ABSL_FLAG(double, flag_us, 2, "microseconds of a ready flag in the modelled network, 0..1000");
ABSL_FLAG(
    std::string, plan, "",
    "stream: simulate the plans of this file, as `ultraepctl plan --json` prints them, instead "
    "of planning drawn loads");
ABSL_FLAG(uint32_t, gpu_ranks, 0,
          "gpu: ranks, 0..64, at most 8 on each device; 0: one on each device, at least 2");
ABSL_FLAG(uint32_t, blocks, 0,
          "gpu: SMs that a rank's weights or gradients may take, 0..512; 0: 32, 64 and 128 for "
          "transfers, 32 in a step");
ABSL_FLAG(bool, json, false, "one line of JSON instead of a table");

namespace ultraep::bench {
namespace {

struct Benchmark {
  const char* name;
  const char* about;
  int (*run)(const Workload&, bool json);
};

constexpr Benchmark kBenchmarks[] = {
    {"plan", "our planner beside the baselines, on the same loads", RunPlanBench},
    {"route", "how evenly the exact split spreads tokens, beside the published interleave",
     RunRouteBench},
    {"stream", "relays on a modelled network; weights and gradients on this machine beside memcpy",
     RunStreamBench},
    {"gpu", "kernels, transfers beside copies, and whole steps on this machine's GPUs",
     RunGpuBench},
    {"count", "what counting a step for metrics, and recording it, costs", RunCountBench},
};

void PrintHelp() {
  std::printf("usage: ultraep-bench BENCHMARK [flags]\n\nbenchmarks:\n");
  for (const Benchmark& b : kBenchmarks) std::printf("  %-6s %s\n", b.name, b.about);
  std::printf("  %-6s %s\n", "loads",
              "write the loads to OUT.npy: ultraep-bench loads OUT.npy [flags]");
  std::printf("\nflags:\n");
  for (auto& [name, flag] : absl::GetAllFlags()) {
    if (!absl::EndsWith(flag->Filename(), "bench/bench_main.cc")) continue;
    std::printf("  --%s (default %s)\n      %s\n", std::string(name).c_str(),
                flag->DefaultValue().c_str(), flag->Help().c_str());
  }
  std::printf(
      "\nExit status: 0 done, or no device for gpu; 1 a file cannot be written, or a part of gpu "
      "could not "
      "be measured; 2 the command line is not understood.\n");
}

[[noreturn]] void Usage(const std::string& wrong) {
  std::fprintf(stderr, "ultraep-bench: %s\nTry: ultraep-bench --help\n", wrong.c_str());
  std::exit(2);
}

template <class T>
T InRange(const char* name, T value, T low, T high) {
  if (value >= low && value <= high) return value;
  Usage("--" + std::string(name) + " is " + std::to_string(value) + ", must be " +
        std::to_string(low) + ".." + std::to_string(high));
}

// gpu: --gpu_ranks counts instead of --ranks.
Workload FromFlags(bool gpu = false) {
  Workload w;
  w.shape = {absl::GetFlag(FLAGS_ranks), absl::GetFlag(FLAGS_experts), absl::GetFlag(FLAGS_slots),
             absl::GetFlag(FLAGS_domain_size)};
  if (gpu) w.shape.ranks = 1;
  if (const std::string wrong = CheckShape(w.shape); !wrong.empty()) Usage("--" + wrong);
  w.generator = absl::GetFlag(FLAGS_generator);
  w.imbalance = InRange("imbalance", absl::GetFlag(FLAGS_imbalance), 1., 64.);
  w.seeds = InRange("seeds", absl::GetFlag(FLAGS_seeds), 1u, 10000u);
  w.repeats = InRange("repeats", absl::GetFlag(FLAGS_repeats), 1u, 100000u);
  w.batch.tokens_per_rank = InRange("tokens", absl::GetFlag(FLAGS_tokens), 0u, 1u << 20);
  w.batch.top_k = InRange("top_k", absl::GetFlag(FLAGS_top_k), 1u, 64u);
  w.expert_bytes =
      InRange("expert_bytes", absl::GetFlag(FLAGS_expert_bytes), uint64_t{1}, uint64_t{1} << 30);
  w.link_gb_s = InRange("link_gb_s", absl::GetFlag(FLAGS_link_gb_s), 0.001, 4000.);
  w.flag_us = InRange("flag_us", absl::GetFlag(FLAGS_flag_us), 0., 1000.);
  w.gpu_ranks = InRange("gpu_ranks", absl::GetFlag(FLAGS_gpu_ranks), 0u, 64u);
  w.blocks = InRange("blocks", absl::GetFlag(FLAGS_blocks), 0u, 512u);
  w.plan_file = absl::GetFlag(FLAGS_plan);
  w.epsilon_ppm =
      uint32_t(std::lround(1e6 * InRange("epsilon", absl::GetFlag(FLAGS_epsilon), 0., 1.)));
  if (w.generator == "dsv3") {
    if (256 % w.shape.experts)
      Usage("--experts is " + std::to_string(w.shape.experts) +
            ", with --generator dsv3 it must divide 256");
    const auto layers = uint32_t(test::DeepSeekV3Popularity().size());
    if (layers == 0) Usage("the layer profiles of dsv3 are not where this was built");
    w.seeds = std::min(w.seeds, layers);
  } else if (w.generator != "A" && w.generator != "B" && w.generator != "C") {
    Usage("--generator is '" + w.generator + "', must be A, B, C or dsv3");
  }
  return w;
}

// Both --top-k and --top_k; an unknown flag ends with 2.
std::vector<std::string> Normalised(int argc, char** argv) {
  std::vector<std::string> words(argv, argv + argc);
  for (std::string& word : words) {
    if (word.rfind("--", 0) != 0 || word.size() == 2) continue;
    const size_t end = std::min(word.find('='), word.size());
    std::replace(word.begin() + 2, word.begin() + long(end), '-', '_');
    if (!absl::FindCommandLineFlag(word.substr(2, end - 2))) Usage("unknown flag " + word);
  }
  return words;
}

}  // namespace

test::LoadMatrix Workload::Draw(uint32_t index) const {
  const uint64_t seed = index + 1;
  if (generator == "A")
    return test::DominantExpertLoad(shape.ranks, shape.experts, imbalance, seed, batch);
  if (generator == "B") return test::ZipfLoad(shape.ranks, shape.experts, imbalance, seed, batch);
  if (generator == "C")
    return test::LogNormalLoad(shape.ranks, shape.experts, imbalance, seed, batch);
  static const std::vector<std::vector<double>> layers = test::DeepSeekV3Popularity();
  return test::ProfileLoad(layers[index], shape.ranks, shape.experts, index, batch);
}

void ShowProgress(const std::string& text) {
  if (isatty(STDERR_FILENO)) std::fprintf(stderr, "\r\033[K%s", text.c_str());
}

void EndProgress() { ShowProgress(""); }

int Main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]) == "--help" || std::string(argv[i]) == "-h") {
      PrintHelp();
      return 0;
    }
  std::vector<std::string> words = Normalised(argc, argv);
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  const auto rest = absl::ParseCommandLine(argc, pointers.data());
  const std::string name = rest.size() > 1 ? rest[1] : "";
  if (name == "loads" && rest.size() == 3) return SaveLoads(FromFlags(), rest[2]);
  if (name == "loads") Usage("one file is needed: ultraep-bench loads OUT.npy");
  if (rest.size() != 2) Usage("one benchmark is needed: plan, route, stream, count, gpu or loads");
  for (const Benchmark& b : kBenchmarks)
    if (name == b.name) return b.run(FromFlags(b.run == RunGpuBench), absl::GetFlag(FLAGS_json));
  Usage("unknown benchmark '" + name + "', there are plan, route, stream, count, gpu and loads");
}

}  // namespace ultraep::bench

int main(int argc, char** argv) { return ultraep::bench::Main(argc, argv); }

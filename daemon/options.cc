#include "daemon/options.h"

#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string_view>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "daemon/metrics/metrics_table.h"
#include "protocol/version.h"

ABSL_FLAG(std::string, socket, "/run/ultraep/ultraepd.sock",
          "path of the attach socket, at most 107 bytes; its directory must exist");
ABSL_FLAG(std::string, socket_mode, "0660",
          "octal mode of the attach socket, 0600..0666; groups of other users stay apart whatever "
          "it is");
ABSL_FLAG(double, epsilon, 0.005,
          "peak load aimed at, as a fraction above the lower bound, 0..1; smaller balances better "
          "and moves more weights; 0: every rank gets the same tokens, give or take one, where the "
          "slots allow it");
ABSL_FLAG(
    uint32_t, tile_tokens, 0,
    "tokens of one tile of the experts' grouped GEMM, 0..65536: quotas are multiples of it where "
    "the peak allows; 0: off");
ABSL_FLAG(double, cost_token_ns, 0,
          "nanoseconds an expert takes for one token, 0..1e6; with this or another cost the daemon "
          "balances only as far as it pays, and does not replicate when it does not");
ABSL_FLAG(double, cost_expert_us, 0,
          "microseconds the weights of one expert take over one link, 0..1e6");
ABSL_FLAG(double, cost_instance_us, 0,
          "microseconds one more active expert costs on a rank (launch, partial tile), 0..1e6; at "
          "decode sizes it makes the daemon move whole experts instead of splitting them");
ABSL_FLAG(
    double, link_gb_s, 710,
    "gigabytes per second that one rank sends to others at most, 0.001..4000; with the next one "
    "it decides how deep trees of relays are; all daemons of a group must have the same");
ABSL_FLAG(uint32_t, flag_latency_ns, 2000,
          "nanoseconds from a rank's ready flag to another rank's reaction, 0..1000000");
ABSL_FLAG(
    int64_t, spin_us, -1,
    "microseconds the planner spins for rows before it sleeps, 0..1000000; -1: 10000 when there "
    "is a CPU for it and for every local rank, else 0; spinning costs a CPU while steps run and "
    "saves a wake-up (some 50 us) per step");
ABSL_FLAG(uint64_t, memory_limit_mib, 0,
          "most MiB of shared memory for all groups; 0: 80 % of what the machine has left, counted "
          "with what the groups hold, whenever a group wants more");
ABSL_FLAG(
    uint32_t, max_connections, 2048,
    "most open connections, 1..65536, one per rank; RLIMIT_NOFILE must be eight times as much, "
    "or the daemon takes fewer");
ABSL_FLAG(uint32_t, lease_ms, 5000,
          "milliseconds, 500..3600000: a rank whose heartbeat stands still for so long (stopped, "
          "frozen) is fenced and its group goes on with main copies until it is back; ranks watch "
          "the daemon alike; shorter notices sooner and mistakes a starved process for a stopped "
          "one, which costs a generation and no result");
ABSL_FLAG(uint32_t, uid_groups, 64, "most groups of one user, 1..65536");
ABSL_FLAG(uint32_t, uid_connections, 1024, "most open connections of one user, 1..65536");
ABSL_FLAG(uint64_t, uid_memory_mib, 0,
          "most MiB of shared memory for the groups of one user; 0: --memory_limit_mib");
ABSL_FLAG(uint64_t, uid_gpu_memory_mib, 0,
          "most MiB of GPU memory that the daemon makes for the groups of one user, of all GPUs; "
          "0: no limit");
ABSL_FLAG(
    std::string, cuda_backend, "off",
    "off, auto or path of libultraep_cuda.so; only slots on GPUs that the daemon owns (memory 2) "
    "need it, those that ranks own (memory 1, the default) do not; auto: in ../lib of ultraepd, "
    "else where the loader finds it; off: no CUDA driver is loaded. Loaded, the driver runs in "
    "the daemon, keeps /dev/nvidia* open, and whoever may use the socket can have the daemon take "
    "GPU memory: see --uid_gpu_memory_mib");
ABSL_FLAG(std::string, cuda_driver, "",
          "path of libcuda.so.1 for --cuda_backend; empty: where the loader finds it");
ABSL_FLAG(std::string, nvml, "",
          "path of libnvidia-ml.so.1 for --cuda_backend; empty: where the loader finds it");
ABSL_FLAG(
    bool, share_devices, false,
    "several ranks of a group may be on one GPU; for tests and benchmarks that have them in one "
    "process: they take each other's SMs, and from the ninth on each other's queues");
ABSL_FLAG(
    std::string, metrics_listen, "127.0.0.1:9478",
    "HOST:PORT of /metrics and the status page, port 0: any free one; off: none; everybody on "
    "the node may read there how all users' groups are called and what their steps come to");
ABSL_FLAG(uint32_t, metrics_detail_series, 0,
          "most Prometheus series with numbers per layer and rank, 0..20000: a group's are there "
          "all or not at all; 0: none; they cost memory here and in Prometheus");
ABSL_FLAG(std::string, log_level, "info", "debug, info, warning or error");

namespace ultraep {
namespace {

constexpr const char* kUsage =
    "ultraepd: the expert-load balancer's per-node daemon\n\n"
    "usage: ultraepd [--socket PATH] [--flagfile FILE] [flags]\n"
    "       ultraepd --metrics_table | --version\n\n"
    "Serves the ranks of this node until SIGTERM or SIGINT. --flagfile reads flags from FILE, one\n"
    "per line, # starts a comment. --metrics_table prints every metric as a Markdown table.\n"
    "Exit status: 0 clean shutdown, 1 cannot start, 2 wrong "
    "usage.\n\n"
    "flags:\n";

[[noreturn]] void Usage(const std::string& wrong) {
  std::fprintf(stderr, "ultraepd: %s\nTry: ultraepd --help\n", wrong.c_str());
  std::exit(2);
}

template <class T>
T InRange(const char* name, T value, T low, T high) {
  if (value < low || value > high)
    Usage("--" + std::string(name) + " is " + std::to_string(value) + ", must be " +
          std::to_string(low) + ".." + std::to_string(high));
  return value;
}

uint64_t Picoseconds(const char* name, double value, double unit) {
  if (!(value >= 0 && value <= 1e6))
    Usage("--" + std::string(name) + " is " + std::to_string(value) + ", must be 0..1e6");
  return uint64_t(std::llround(value * unit));
}

uint64_t BytesOfMib(const char* name, uint64_t mib) {
  if (mib > (uint64_t{1} << 40))
    Usage("--" + std::string(name) + " is " + std::to_string(mib) + ", must be at most 2^40");
  return mib << 20;
}

// Of a library that is named. A typing error must not look like a node without GPUs.
std::string PathOf(const char* name, const std::string& path) {
  if (!path.empty() && access(path.c_str(), R_OK))
    Usage("--" + std::string(name) + " is '" + path + "': " + std::strerror(errno));
  return path;
}

std::string BackendOf(const std::string& text) {
  if (text.empty()) Usage("--cuda_backend is '', must be off, auto or a path");
  return text == "off" || text == "auto" ? text : PathOf("cuda_backend", text);
}

// Abseil's own --help exits with 1 and shows source paths.
void PrintHelp() {
  std::printf("%s", kUsage);
  std::map<std::string, std::pair<std::string, std::string>> ours;
  for (auto& [name, flag] : absl::GetAllFlags()) {
    if (!absl::EndsWith(flag->Filename(), "daemon/options.cc")) continue;
    ours[std::string(name)] = {flag->Help(), flag->DefaultValue()};
  }
  for (auto& [name, about] : ours)
    std::printf("  --%s (default %s)\n      %s\n", name.c_str(), about.second.c_str(),
                about.first.c_str());
}

// Abseil ends the program with 1 on an unknown flag; for us that is wrong usage.
void CheckFlagNames(int argc, char** argv) {
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    std::string_view word = argv[i];
    if (word.substr(0, 2) != "--") continue;
    word = word.substr(2, word.find('=') == word.npos ? word.npos : word.find('=') - 2);
    if (!absl::FindCommandLineFlag(absl::string_view(word.data(), word.size())))
      Usage("unknown flag --" + std::string(word));
  }
}

LogLevel ParseLevel(const std::string& text) {
  if (text == "debug") return LogLevel::kDebug;
  if (text == "info") return LogLevel::kInfo;
  if (text == "warning") return LogLevel::kWarning;
  if (text == "error") return LogLevel::kError;
  Usage("--log_level is '" + text + "', must be debug, info, warning or error");
}

}  // namespace

DaemonOptions ParseOptions(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--help" || word == "-h" || word == "-help") {
      PrintHelp();
      std::exit(0);
    }
    if (word == "--version") {
      std::printf("ultraepd %s, layout version %u\n", kBuildVersion, kLayoutVersion);
      std::exit(0);
    }
    if (word == "--metrics_table") {
      std::printf("%s", metrics::MetricsTable().c_str());
      std::exit(0);
    }
  }
  CheckFlagNames(argc, argv);
  const auto rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) Usage(std::string("unexpected argument '") + rest[1] + "'");

  DaemonOptions o;
  o.socket = absl::GetFlag(FLAGS_socket);
  if (o.socket.empty() || o.socket.size() >= sizeof(sockaddr_un::sun_path))
    Usage("--socket has " + std::to_string(o.socket.size()) + " bytes, must have 1..107");
  const std::string mode = absl::GetFlag(FLAGS_socket_mode);
  char* end = nullptr;
  o.socket_mode = uint32_t(std::strtoul(mode.c_str(), &end, 8));
  if (mode.empty() || *end || (o.socket_mode & ~0666u) || (o.socket_mode & 0600u) != 0600u)
    Usage("--socket_mode is '" + mode + "', must be octal 0600..0666");
  const double epsilon = absl::GetFlag(FLAGS_epsilon);
  if (!(epsilon >= 0 && epsilon <= 1))
    Usage("--epsilon is " + std::to_string(epsilon) + ", must be 0..1");
  o.plan.epsilon_ppm = uint32_t(std::lround(epsilon * 1e6));
  o.plan.tile_tokens = InRange("tile_tokens", absl::GetFlag(FLAGS_tile_tokens), 0u, 65536u);
  o.plan.cost.token = Picoseconds("cost_token_ns", absl::GetFlag(FLAGS_cost_token_ns), 1e3);
  o.plan.cost.expert = Picoseconds("cost_expert_us", absl::GetFlag(FLAGS_cost_expert_us), 1e6);
  o.plan.cost.instance =
      Picoseconds("cost_instance_us", absl::GetFlag(FLAGS_cost_instance_us), 1e6);
  const double link = absl::GetFlag(FLAGS_link_gb_s);
  if (!(link >= 0.001 && link <= 4000))
    Usage("--link_gb_s is " + std::to_string(link) + ", must be 0.001..4000");
  o.link.mb_per_s = uint32_t(std::lround(link * 1e3));
  o.link.flag_latency_ns =
      InRange("flag_latency_ns", absl::GetFlag(FLAGS_flag_latency_ns), 0u, 1000000u);
  o.spin_us = InRange<int64_t>("spin_us", absl::GetFlag(FLAGS_spin_us), -1, 1000000);
  o.memory_limit_bytes = BytesOfMib("memory_limit_mib", absl::GetFlag(FLAGS_memory_limit_mib));
  o.max_connections = InRange("max_connections", absl::GetFlag(FLAGS_max_connections), 1u, 65536u);
  o.lease_ns =
      InRange("lease_ms", absl::GetFlag(FLAGS_lease_ms), 500u, 3600000u) * uint64_t{1'000'000};
  o.uid_groups = InRange("uid_groups", absl::GetFlag(FLAGS_uid_groups), 1u, 65536u);
  o.uid_connections = InRange("uid_connections", absl::GetFlag(FLAGS_uid_connections), 1u, 65536u);
  o.uid_memory_limit_bytes = BytesOfMib("uid_memory_mib", absl::GetFlag(FLAGS_uid_memory_mib));
  o.uid_gpu_memory_limit_bytes =
      BytesOfMib("uid_gpu_memory_mib", absl::GetFlag(FLAGS_uid_gpu_memory_mib));
  o.cuda.backend = BackendOf(absl::GetFlag(FLAGS_cuda_backend));
  o.cuda.driver = PathOf("cuda_driver", absl::GetFlag(FLAGS_cuda_driver));
  o.cuda.nvml = PathOf("nvml", absl::GetFlag(FLAGS_nvml));
  o.share_devices = absl::GetFlag(FLAGS_share_devices);
  if (std::string wrong =
          ParseListenAddress(absl::GetFlag(FLAGS_metrics_listen), &o.metrics_listen);
      !wrong.empty())
    Usage("--metrics_listen is " + wrong);
  o.metrics_detail_series =
      InRange("metrics_detail_series", absl::GetFlag(FLAGS_metrics_detail_series), 0u, 20000u);
  o.log_level = ParseLevel(absl::GetFlag(FLAGS_log_level));
  return o;
}

}  // namespace ultraep

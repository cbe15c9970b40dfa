// `ultraep-bench gpu`: kernel times, weights and gradients beside copies, and whole steps, on the
// GPUs of this machine, through the plugin's C ABI, the backend and a daemon in this process.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

#include "protocol/transport/load_backend.h"
#include "tests/bench/bench.h"
#include "tests/bench/gpu_measure.h"

namespace ultraep::bench {
namespace {

using Json = nlohmann::ordered_json;

// Streams that poll each other on one device need a hardware queue each; there are 32.
constexpr uint32_t kRanksPerDevice = 8;

// What plugin and this program load alike: the backend of this build, unless another one is named.
LoadedBackend Load() {
  std::error_code none;
  const auto own = std::filesystem::read_symlink("/proc/self/exe", none).parent_path();
  const auto beside = own.parent_path() / "lib" / "libultraep_cuda.so";
  if (std::filesystem::exists(beside, none)) setenv("ULTRAEP_CUDA_BACKEND", beside.c_str(), 0);
  // Kernels that poll others must not wait for them in a queue, or for a kernel to be loaded.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  return LoadBackendOfEnvironment("");
}

// Nothing was measured, and that is no error.
int NoDevice(const std::string& why, bool json) {
  if (json)
    std::printf("%s\n", Json({{"device", nullptr}, {"why", why}}).dump().c_str());
  else
    std::printf("no device: %s\n", why.c_str());
  return 0;
}

Json Describe(DeviceBackend& backend, const DeviceInfo& info) {
  const std::string name = info.name;
  return {{"name", name},
          {"devices", backend.device_count()},
          {"architecture", "sm_" + std::to_string(info.architecture)},
          {"processors", info.processors},
          {"driver", std::to_string(info.driver_version / 1000) + "." +
                         std::to_string(info.driver_version % 1000 / 10)},
          // The tests' driver calls its devices so.
          {"stand_in", name.rfind("Fake GPU", 0) == 0}};
}

void PrintKernels(const Json& rows, const Workload& w) {
  std::printf("\nkernels of one rank alone, %u tokens, top %u, %u experts; us, quartiles\n%-10s",
              w.batch.tokens_per_rank, w.batch.top_k, w.shape.experts, "form");
  for (const char* what : {"count", "await", "route", "all"}) std::printf(" %24s", what);
  for (const Json& r : rows) {
    std::printf("\n%-10s", r["form"].get<std::string>().c_str());
    for (const char* what : {"count", "await", "route", "all"})
      std::printf("   %6.1f %7.1f %7.1f", r[what]["p25_us"].get<double>(),
                  r[what]["median_us"].get<double>(), r[what]["p75_us"].get<double>());
  }
  std::printf("\n");
}

void PrintTransfers(const Json& transfers, const std::string& where) {
  std::printf(
      "\neight experts at once, %s, beside the copy engine between the same places\n"
      "%-18s %7s %9s %9s %9s %9s %9s\n",
      where.c_str(), "what", "blocks", "MB", "us", "GB/s", "copy", "of copy");
  for (const char* part : {"stream", "reduce"})
    for (const Json& r : transfers[part])
      std::printf("%-18s %7u %9.1f %9.1f %9.1f %9.1f %8.2fx\n",
                  r["what"].get<std::string>().c_str(), r["blocks"].get<uint32_t>(),
                  r["bytes"].get<double>() * 1e-6, r["median_us"].get<double>(),
                  r["gb_s"].get<double>(), r["copy_gb_s"].get<double>(),
                  r["of_copy"].get<double>());
}

void PrintStep(const Json& s, uint32_t ranks) {
  std::printf(
      "\n%u steps, %u ranks at once, %.1f replicas of %.2f MB, %u blocks, the slowest rank\n"
      "%-34s %9s %9s\n",
      s["steps"].get<uint32_t>(), ranks, s["replicas"].get<double>(),
      s["expert_bytes"].get<double>() * 1e-6, s["stream_blocks"].get<uint32_t>(), "us", "p50",
      "p99");
  std::printf("%-34s %9.1f %9.1f\n", "launch to verdict", s["verdict_p50_us"].get<double>(),
              s["verdict_p99_us"].get<double>());
  std::printf("%-34s %9.1f %9.1f\n%-34s %9.1f\n", "launch to weights and routed ids",
              s["exposed_p50_us"].get<double>(), s["exposed_p99_us"].get<double>(), "of it solve",
              s["solve_p50_us"].get<double>());
}

// The parts that can be measured; what is wrong with the others lies in "wrong".
Json Measure(const GpuPlace& place, const Workload& w) {
  Json out, wrong = Json::object();
  const auto part = [&](const char* name, auto measure) {
    ShowProgress(name);
    try {
      out[name] = measure(place, w);
    } catch (const std::exception& e) {
      wrong[name] = e.what();
    }
    EndProgress();
  };
  part("kernels", MeasureGpuKernels);
  if (place.ranks > 1) part("transfers", MeasureGpuTransfers);
  part("step", MeasureGpuStep);
  if (!wrong.empty()) out["wrong"] = wrong;
  return out;
}

void Print(const Json& out, const Workload& w) {
  const Json& device = out["device"];
  std::printf("%s, %s, %u device(s), driver %s\n", device["name"].get<std::string>().c_str(),
              device["architecture"].get<std::string>().c_str(), device["devices"].get<uint32_t>(),
              device["driver"].get<std::string>().c_str());
  for (const Json& note : out["notes"]) std::printf("note: %s\n", note.get<std::string>().c_str());
  if (out.contains("kernels")) PrintKernels(out["kernels"], w);
  if (out.contains("transfers")) PrintTransfers(out["transfers"], out["where"]);
  if (out.contains("step")) PrintStep(out["step"], out["ranks"]);
}

}  // namespace

int RunGpuBench(const Workload& workload, bool json) {
  const LoadedBackend loaded = Load();
  if (!loaded.backend) return NoDevice(loaded.why, json);
  DeviceBackend& backend = *loaded.backend;
  if (!backend.device_count()) return NoDevice("the driver has none", json);
  DeviceInfo info;
  BackendText text;
  if (!backend.Describe(0, &info, &text)) return NoDevice(text.text, json);
  if (!info.has_kernels)
    return NoDevice(std::string(info.name) + " is sm_" + std::to_string(info.architecture) +
                        ", the backend is built for " + backend.architectures(),
                    json);
  GpuPlace place{&backend, backend.device_count(), workload.gpu_ranks};
  if (!place.ranks) place.ranks = std::clamp(place.devices, 2u, 64u);
  if (place.ranks > place.devices * kRanksPerDevice || workload.shape.experts % place.ranks) {
    std::fprintf(stderr,
                 "ultraep-bench: --gpu_ranks is %u, must be at most %u for each of the %u devices "
                 "and divide --experts, which is %u\nTry: ultraep-bench --help\n",
                 place.ranks, kRanksPerDevice, place.devices, workload.shape.experts);
    return 2;
  }
  Json out = {{"device", Describe(backend, info)}, {"ranks", place.ranks}};
  out["where"] = place.devices > 1 ? "from device 0 to device 1" : "device-local, no link";
  out["notes"] = Json::array();
  if (out["device"]["stand_in"])
    out["notes"].push_back(
        "NO GPU: THIS IS THE TESTS' DRIVER. All figures are a CPU's and say nothing about a GPU.");
  if (place.ranks == 1) out["notes"].push_back("one rank has nobody to send to: no transfers");
  if (place.ranks > place.devices)
    out["notes"].push_back("ranks share devices: they take each other's SMs and memory");
  out.update(Measure(place, workload));
  if (json)
    std::printf("%s\n", out.dump().c_str());
  else
    Print(out, workload);
  if (!out.contains("wrong")) return 0;
  for (const auto& [name, why] : out["wrong"].items())
    std::fprintf(stderr, "ultraep-bench: %s not measured: %s\n", name.c_str(),
                 why.get<std::string>().c_str());
  return 1;
}

}  // namespace ultraep::bench

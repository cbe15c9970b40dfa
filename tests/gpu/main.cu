// Runs the executors and the split on a real device: tests/gpu/README.md.
#include <cstring>
#include <string>

#include "tests/gpu/device.cuh"
#include "tests/gpu/tests.cuh"

namespace ultraep::gpu {

Options options;

namespace {

constexpr int kSkipped = 77;
uint32_t passed = 0, failed = 0;

constexpr char kUsage[] =
    "usage: gpu_executors [--bench] [--small] [--one-launch] [--timeout SECONDS]\n"
    "  --bench       measures copies and reductions instead of testing\n"
    "  --small       sizes for tools that slow everything down\n"
    "  --one-launch  all ranks in one launch, for tools that run one launch after the other\n"
    "  --timeout     seconds, at least 1, until a test counts as hanging; default 20\n";

bool Parse(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--bench")
      options.bench = true;
    else if (flag == "--small")
      options.small = true;
    else if (flag == "--one-launch")
      options.one_launch = true;
    else if (flag == "--timeout" && i + 1 < argc)
      options.timeout_s = std::atof(argv[++i]);
    else
      return false;
  }
  return options.timeout_s >= 1;
}

int Skip(const std::string& why) {
  std::printf("skipped: %s\n", why.c_str());
  return kSkipped;
}

int Run() {
  // Kernels that poll others must not wait for them in a queue, or for a kernel to be loaded.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
  setenv("CUDA_MODULE_LOADING", "EAGER", 1);
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess)
    return Skip(cudaGetErrorString(error));
  if (devices == 0) return Skip("no CUDA device");
  cudaDeviceProp device;
  ULTRAEP_CUDA(cudaGetDeviceProperties(&device, 0));
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, GroupStreamKernel<BlockTeam>) != cudaSuccess)
    return Skip(Text("not built for the device, %s with compute capability %d.%d", device.name,
                     device.major, device.minor));
  std::printf("%s, %d processors, %.0f GiB\n", device.name, device.multiProcessorCount,
              double(device.totalGlobalMem) / (1 << 30));
  if (options.bench) {
    Bench();
    return 0;
  }
  TestSplit();
  TestStreams();
  TestReductions();
  TestBackend();
  std::printf("%u passed, %u failed\n", passed, failed);
  return failed ? 1 : 0;
}

}  // namespace

void Report(bool fine, const std::string& what, const std::string& detail) {
  ++(fine ? passed : failed);
  std::printf("%-4s  %-52s  %s\n", fine ? "ok" : "FAIL", what.c_str(), detail.c_str());
  std::fflush(stdout);
}

}  // namespace ultraep::gpu

int main(int argc, char** argv) {
  if (!ultraep::gpu::Parse(argc, argv)) {
    std::fputs(ultraep::gpu::kUsage, stderr);
    return 2;
  }
  return ultraep::gpu::Run();
}

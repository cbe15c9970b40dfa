// GPUs, their driver, the CUDA backend, and NCCL.
#include <unistd.h>

#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "daemon/cli/doctor/checks.h"
#include "daemon/status_json.h"

namespace ultraep {
namespace {

bool AllDigits(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == text.npos;
}

std::vector<std::string> DeviceFiles(const Machine& machine) {
  std::vector<std::string> files;
  for (const std::string& name : machine.List("/dev"))
    if (absl::StartsWith(name, "nvidia") && AllDigits(name.substr(6)))
      files.push_back("/dev/" + name);
  return files;
}

std::string NameOf(const DeviceInfo& info) {
  return absl::StrFormat("%s (sm_%d)", GetText(info.name), info.architecture);
}

std::string Describe(const DeviceInfo& info) {
  std::string text = NameOf(info);
  text += info.has_fabric_handles ? ", fabric handles" : ", no fabric handles (one machine only)";
  if (info.fabric == FabricState::kReady)
    text += absl::StrFormat(", NVLink clique %d", info.clique);
  return text;
}

// Of one device, or nothing.
void FindWrong(const DeviceInfo& info, const CudaFound& cuda, std::vector<Finding>* findings) {
  if (!info.has_vmm)
    findings->push_back(
        {Level::kWarn,
         NameOf(info) + " has no virtual memory management with descriptors: no slots there",
         "a current driver, and the whole GPU instead of a vGPU; else join with memory 0 (host)"});
  if (!info.has_kernels)
    findings->push_back({Level::kWarn,
                         absl::StrFormat("%s is not among the architectures of %s: %s",
                                         NameOf(info), cuda.path, cuda.architectures),
                         "join with memory 0 (host), or build ultraep for it"});
  if (info.fabric == FabricState::kPending)
    findings->push_back(
        {Level::kWarn, NameOf(info) + ": the NVLink fabric is not ready yet",
         "wait; if it stays: systemctl status nvidia-fabricmanager, nvidia-smi -q"});
}

// What helps against what the backend, or who loads it, found wrong.
const char* BackendFix(const std::string& why) {
  if (absl::StrContains(why, "update the driver"))
    return "update the driver, or build ultraep with an older toolkit";
  if (absl::StrContains(why, "no CUDA driver"))
    return "install the driver's libraries, or correct ULTRAEP_CUDA_DRIVER";
  if (absl::StrContains(why, "one release"))
    return "install programs, libultraep.so and libultraep_cuda.so of one release";
  if (absl::StrContains(why, "CUDA backend"))
    return "install libultraep_cuda.so of this release in ../lib of the programs and beside "
           "libultraep.so, or name it by ULTRAEP_CUDA_BACKEND";
  return "nvidia-smi shows the state of driver and GPUs";
}

std::vector<Finding> CheckBackend(const Examined& x) {
  const CudaFound cuda = x.machine.cuda();
  if (!cuda.why.empty())
    return {{Level::kWarn, cuda.why + "; slots are in host memory only", BackendFix(cuda.why)}};
  std::vector<Finding> findings;
  std::map<std::string, uint32_t> alike;
  uint32_t driver = 0;
  for (const DeviceInfo& info : cuda.devices) {
    ++alike[Describe(info)];
    driver = info.driver_version;
    FindWrong(info, cuda, &findings);
  }
  for (const std::string& wrong : cuda.wrong)
    findings.push_back({Level::kWarn, wrong, "nvidia-smi shows the state of the GPU"});
  if (alike.empty() && findings.empty())
    findings.push_back({Level::kWarn, "the CUDA driver shows no device",
                        "is CUDA_VISIBLE_DEVICES empty? Else nvidia-smi"});
  if (!findings.empty()) return findings;
  const auto counted = [](std::string* out, const auto& kind) {
    *out += absl::StrFormat("%d x %s", kind.second, kind.first);
  };
  return {{Level::kOk,
           absl::StrFormat("%s; driver %s, %s", absl::StrJoin(alike, "; ", counted),
                           CudaVersion(driver), cuda.path),
           ""}};
}

}  // namespace

std::vector<Finding> CheckGpu(const Examined& x) {
  const std::vector<std::string> devices = DeviceFiles(x.machine);
  if (devices.empty() && !x.machine.Exists("/proc/driver/nvidia/version"))
    return {{Level::kNote, "no NVIDIA device: slots are in host memory only", ""}};
  if (devices.empty())
    return {{Level::kWarn, "the NVIDIA driver is loaded, but there is no /dev/nvidia0",
             "in a container: give it the GPUs when it is started; else run nvidia-modprobe"}};
  std::vector<Finding> findings;
  for (const std::string& device : devices)
    if (euidaccess((x.machine.root + device).c_str(), R_OK | W_OK))
      findings.push_back({Level::kWarn, device + " may not be used by this user",
                          "add the user to the group of " + device});
  const auto check_library = [&](const char* library) {
    if (const std::string why = x.machine.load(library); !why.empty())
      findings.push_back({Level::kWarn, why,
                          "install the driver's libraries; in a container: "
                          "NVIDIA_DRIVER_CAPABILITIES=compute,utility"});
  };
  check_library("libcuda.so.1");
  const bool usable = findings.empty();
  check_library("libnvidia-ml.so.1");  // the backend does without
  if (usable)
    for (Finding& finding : CheckBackend(x)) findings.push_back(std::move(finding));
  // What this user sees need not be what the daemon sees.
  if (x.answer.answers() && x.answer.daemon.cuda == CudaUse::kMissing)
    findings.push_back({Level::kNote,
                        "the daemon has no GPU: " + GetText(x.answer.daemon.cuda_found) +
                            "; memory that ranks own (the default) needs none there",
                        ""});
  return findings;
}

std::vector<Finding> CheckNccl(const Examined& x) {
  const std::string why = x.machine.load("libnccl.so.2");
  if (SomethingHangs()) return {{Level::kWarn, why, "nvidia-smi shows the state of the driver"}};
  if (!why.empty())
    return {{Level::kNote,
             "none in the loader's path; a framework that brings its own is enough, and only "
             "groups across nodes need it",
             ""}};
  const uint32_t version = x.machine.cuda().nccl_version;
  return {{Level::kOk,
           version ? absl::StrFormat("libnccl.so.2, version %d.%d.%d", version / 10000,
                                     version / 100 % 100, version % 100)
                   : "libnccl.so.2",
           ""}};
}

}  // namespace ultraep

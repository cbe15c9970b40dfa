#include "daemon/memory/device_memory.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "daemon/log.h"
#include "protocol/transport/load_backend.h"

namespace ultraep {
namespace {

struct Device {
  uint32_t number = 0;
  DeviceInfo info;
};

std::string Version(uint32_t driver) {
  return std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10);
}

std::string Mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

struct NodeDevices::Shared {
  mutable std::mutex mutex;  // guards what follows
  CudaState state;
  DeviceBackend* backend = nullptr;
  std::vector<Device> devices;  // that can be used

  void Open(const CudaOptions& options);
};

// Takes the lock only when the driver has answered.
void NodeDevices::Shared::Open(const CudaOptions& options) {
  const auto path = [](const std::string& text) { return text.empty() ? nullptr : text.c_str(); };
  BackendOptions paths;
  paths.driver = path(options.driver);
  paths.nvml = path(options.nvml);
  const LoadedBackend loaded =
      LoadBackend(options.backend == "auto" ? "" : options.backend, options.beside, paths);
  std::vector<Device> usable;
  CudaState found;
  found.use = CudaUse::kMissing;
  std::string unusable = loaded.why;
  for (uint32_t d = 0; loaded.backend && d < loaded.backend->device_count(); ++d) {
    Device device{d, {}};
    BackendText wrong;
    if (!loaded.backend->Describe(d, &device.info, &wrong)) {
      unusable = wrong.text;
      continue;
    }
    found.driver_version = device.info.driver_version;
    if (device.info.has_vmm && device.info.has_kernels) {
      usable.push_back(device);
      continue;
    }
    unusable = std::string(device.info.name) + " (sm_" + std::to_string(device.info.architecture) +
               ") " +
               (device.info.has_vmm ? std::string("needs kernels that the backend lacks: it has ") +
                                          loaded.backend->architectures()
                                    : "has no virtual memory management for other processes");
  }
  found.devices = uint32_t(usable.size());
  if (found.devices) {
    found.use = CudaUse::kOpen;
    found.found =
        std::to_string(found.devices) + " CUDA devices, driver " + Version(found.driver_version);
  } else {
    found.found = unusable.empty() ? "the CUDA driver has no device" : unusable;
  }
  std::lock_guard lock(mutex);
  backend = loaded.backend;
  devices = std::move(usable);
  state = std::move(found);
}

NodeDevices::NodeDevices() : shared_(std::make_shared<Shared>()) {
  shared_->state.found = "no GPU memory of the daemon's own";
}

NodeDevices::~NodeDevices() = default;

void NodeDevices::Open(const CudaOptions& options) {
  std::lock_guard lock(shared_->mutex);
  if (options.backend == "off") {
    shared_->state.found = "--cuda_backend is off";
    return;
  }
  shared_->state.use = CudaUse::kOpening;
  shared_->state.found = "the CUDA driver has not answered yet";
  std::thread([shared = shared_, options] {
    shared->Open(options);
    std::lock_guard lock(shared->mutex);
    const CudaState& s = shared->state;
    if (s.use == CudaUse::kOpen)
      LogInfo("slots in host memory and on GPUs: %s", s.found);
    else
      LogInfo("slots in host memory, and on GPUs where ranks own them; none of the daemon's: %s",
              s.found);
  }).detach();
}

CudaState NodeDevices::state() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->state;
}

std::string NodeDevices::Make(const std::vector<JoinDevice>& devices, uint64_t bytes,
                              NodeSlots* slots, std::vector<Descriptor>* descriptors) const {
  std::lock_guard lock(shared_->mutex);
  DeviceBackend* const backend = shared_->backend;
  if (shared_->state.use == CudaUse::kOff)
    return "memory is 2 (on GPUs, the daemon's), but the daemon loads no CUDA driver: start the "
           "daemon with --cuda_backend auto, or join with ULTRAEP_CUDA_MEMORY (ranks own their "
           "slots)";
  if (shared_->state.use != CudaUse::kOpen)
    return "memory is 2 (on GPUs, the daemon's), but the daemon can use no GPU: " +
           shared_->state.found + "; memory 1 needs no driver in the daemon";
  NodeSlots made;
  made.backend_ = backend;
  std::vector<Descriptor> files;
  for (uint32_t r = 0; r < devices.size(); ++r) {
    const auto at =
        std::find_if(shared_->devices.begin(), shared_->devices.end(), [&](const Device& device) {
          return std::memcmp(device.info.uuid, devices[r].uuid, sizeof devices[r].uuid) == 0;
        });
    const std::string whose = "rank " + std::to_string(r) + "'s " + GetText(devices[r].name);
    if (at == shared_->devices.end())
      return whose + " is none of the " + std::to_string(shared_->devices.size()) +
             " GPUs that the daemon can use: give the daemon all GPUs of the node "
             "(CUDA_VISIBLE_DEVICES, container), or join with memory 1 (ranks own their slots)";
    const std::string needs = whose + ": slots of " + Mib(bytes) + " cannot be had: ";
    const std::string fix = "; lower slots or slot_sets, or free memory of the GPU";
    BackendText wrong;
    uint64_t handle = 0;
    if (!backend->Create(at->number, bytes, /*fabric=*/false, &handle, &wrong))
      return needs + wrong.text + fix;
    made.handles_.push_back(handle);
    int file = -1;
    if (!backend->ExportDescriptor(handle, &file, &wrong)) return needs + wrong.text + fix;
    files.emplace_back(file);
  }
  *slots = std::move(made);
  *descriptors = std::move(files);
  return "";
}

}  // namespace ultraep

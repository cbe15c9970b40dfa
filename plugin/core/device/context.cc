#include "plugin/core/device/context.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "protocol/transport/load_backend.h"

namespace ultraep {
namespace {

// The folder of the library, or program, that holds this code: the backend is installed beside it.
std::string OwnFolder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&OwnFolder), &info) || !info.dli_fname) return "";
  const char* slash = std::strrchr(info.dli_fname, '/');
  return slash ? std::string(info.dli_fname, slash) : "";
}

// One backend per process: the driver has one state per process as well.
const LoadedBackend& TheBackend() {
  static const LoadedBackend* const loaded = [] {
    return new LoadedBackend(LoadBackendOfEnvironment(OwnFolder()));
  }();
  return *loaded;
}

}  // namespace

Result DeviceContext::Open(int32_t device, std::shared_ptr<DeviceContext>* out) {
  const LoadedBackend& loaded = TheBackend();
  if (!loaded.backend) return RefusedJoin("slots on a GPU need the CUDA backend: " + loaded.why);
  DeviceBackend& backend = *loaded.backend;
  if (device < 0) device = backend.current_device();
  if (device < 0)
    return RefusedJoin(
        "device is -1 and the calling thread has no CUDA context: set the device first, "
        "or name it");
  const uint32_t count = backend.device_count();
  if (uint32_t(device) >= count)
    return RefusedJoin("device is " + std::to_string(device) + ", this process sees " +
                   std::to_string(count) + " (CUDA_VISIBLE_DEVICES)");
  std::shared_ptr<DeviceContext> made(new DeviceContext(&backend, uint32_t(device)));
  BackendText wrong;
  if (!backend.Describe(made->device_, &made->info_, &wrong)) return RefusedJoin(wrong.text);
  const std::string name =
      std::string(made->info_.name) + " (device " + std::to_string(device) + ")";
  if (!made->info_.has_vmm)
    return RefusedJoin(name +
                   " or its driver lacks virtual memory management with descriptors, which "
                   "slots on a GPU need");
  if (!made->info_.has_kernels)
    return RefusedJoin(name + " is sm_" + std::to_string(made->info_.architecture) +
                   ", the CUDA backend is built for " + backend.architectures());
  if (!backend.Use(made->device_, &wrong)) return RefusedJoin(wrong.text);
  if (!backend.Describe(made->device_, &made->info_, &wrong)) return RefusedJoin(wrong.text);
  *out = std::move(made);
  return Ok();
}

JoinDevice DeviceContext::Description() const {
  JoinDevice d;
  std::memcpy(d.name, info_.name, sizeof d.name);
  std::memcpy(d.uuid, info_.uuid, sizeof d.uuid);
  std::memcpy(d.cluster, info_.cluster, sizeof d.cluster);
  d.clique = info_.clique;
  d.fabric = uint32_t(info_.fabric);
  d.architecture = info_.architecture;
  d.free_bytes = info_.free_bytes;
  return d;
}

DeviceBytes::~DeviceBytes() {
  if (!context_) return;
  if (host_)
    context_->backend().FreePinned(context_->device(), host_);
  else
    context_->backend().Free(context_->device(), at_);
}

Result DeviceBytes::Allocate(const DeviceContext& context, uint64_t bytes) {
  BackendText wrong;
  void* at = nullptr;
  if (!context.backend().Allocate(context.device(), bytes, &at, &wrong)) return RefusedJoin(wrong.text);
  context_ = &context;
  at_ = at;
  bytes_ = bytes;
  if (!context.backend().Zero(context.device(), at, bytes, &wrong)) return RefusedJoin(wrong.text);
  return Ok();
}

Result DeviceBytes::AllocatePinned(const DeviceContext& context, uint64_t bytes) {
  BackendText wrong;
  if (!context.backend().AllocatePinned(context.device(), bytes, &host_, &at_, &wrong))
    return RefusedJoin(wrong.text);
  context_ = &context;
  bytes_ = bytes;
  return Ok();
}

}  // namespace ultraep

#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>

namespace ultraep {
namespace {

// NVML's nvmlGpuFabricState_t.
constexpr unsigned char kNotStarted = 1, kInProgress = 2, kCompleted = 3;

template <typename Function>
Function Symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

void Nvml::Load(const char* path) {
  if (!path || !*path) path = "libnvidia-ml.so.1";
  void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) return;
  const auto init = Symbol<Init>(library, "nvmlInit_v2");
  if (!init || init() != 0) return;
  get_handle_ = Symbol<GetHandleByUuid>(library, "nvmlDeviceGetHandleByUUID");
  get_memory_ = Symbol<GetMemoryInfo>(library, "nvmlDeviceGetMemoryInfo");
  get_fabric_ = Symbol<GetFabricInfo>(library, "nvmlDeviceGetGpuFabricInfoV");
}

Nvml::Device Nvml::Find(const unsigned char (&uuid)[16]) const {
  Device device = nullptr;
  if (!get_handle_) return nullptr;
  char text[48] = "GPU-";
  size_t length = 4;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text[length++] = '-';
    length += std::snprintf(text + length, sizeof(text) - length, "%02x", uuid[i]);
  }
  return get_handle_(text, &device) == 0 ? device : nullptr;
}

void Nvml::DescribeFabric(DeviceInfo* info) const {
  info->fabric = FabricState::kNone;
  const Device device = Find(info->uuid);
  if (!device || !get_fabric_) return;
  FabricInfo fabric = {};
  static_assert(sizeof(FabricInfo) == 36, "nvmlGpuFabricInfo_v2_t");
  fabric.version = sizeof(FabricInfo) | 2u << 24;
  if (get_fabric_(device, &fabric) != 0) return;
  if (fabric.state == kNotStarted || fabric.state == kInProgress) {
    info->fabric = FabricState::kPending;
    return;
  }
  // Without a cluster the NVLink ends at the machine: peers are asked for then.
  const bool has_cluster = std::any_of(std::begin(fabric.cluster), std::end(fabric.cluster),
                                       [](unsigned char c) { return c != 0; });
  if (fabric.state != kCompleted || fabric.status != 0 || !has_cluster) return;
  info->fabric = FabricState::kReady;
  info->clique = fabric.clique;
  std::memcpy(info->cluster, fabric.cluster, sizeof(info->cluster));
}

uint64_t Nvml::FreeBytes(const unsigned char (&uuid)[16]) const {
  const Device device = Find(uuid);
  Memory memory = {};
  return device && get_memory_ && get_memory_(device, &memory) == 0 ? memory.free : 0;
}

}  // namespace ultraep

#include "kernels/cuda/devices.h"

#include <algorithm>
#include <cstring>

namespace ultraep {

CUmemAllocationProp SharedMemoryOf(CUdevice device, bool fabric) {
  CUmemAllocationProp made = {};
  made.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  made.requestedHandleTypes = CUmemAllocationHandleType(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR |
                                                        (fabric ? CU_MEM_HANDLE_TYPE_FABRIC : 0));
  made.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  made.location.id = device;
  return made;
}

bool Devices::Open(BackendText* wrong) {
  int count = 0;
  if (!driver_.Check(driver_.cuDeviceGetCount(&count), wrong, "counting devices")) return false;
  if (count < 1) return driver_.Check(CUDA_ERROR_NO_DEVICE, wrong, "counting devices");
  for (int i = 0; i < count; ++i) {
    devices_.push_back(std::make_unique<Device>());
    if (!Read(i, devices_.back().get(), wrong)) return false;
  }
  return true;
}

bool Devices::Read(int ordinal, Device* device, BackendText* wrong) const {
  DeviceInfo& info = device->info;
  if (!driver_.Check(driver_.cuDeviceGet(&device->handle, ordinal), wrong, "device %d", ordinal) ||
      !driver_.Check(driver_.cuDeviceGetName(info.name, sizeof(info.name), device->handle), wrong,
                     "the name of device %d", ordinal))
    return false;
  info.name[sizeof(info.name) - 1] = 0;
  CUuuid uuid;
  size_t bytes = 0;
  if (!driver_.Check(driver_.cuDeviceGetUuid(&uuid, device->handle), wrong, "the UUID of device %d",
                     ordinal) ||
      !driver_.Check(driver_.cuDeviceTotalMem(&bytes, device->handle), wrong,
                     "the memory of device %d", ordinal))
    return false;
  std::memcpy(info.uuid, uuid.bytes, sizeof(info.uuid));
  info.memory_bytes = bytes;
  info.driver_version = uint32_t(driver_.version);

  int major = 0, minor = 0, processors = 0, engines = 0, shared = 0;
  int vmm = 0, descriptors = 0, fabric = 0;
  const struct {
    CUdevice_attribute attribute;
    int* value;
  } kRead[] = {
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &major},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &minor},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &processors},
      {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, &engines},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &shared},
      {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, &vmm},
      {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, &descriptors},
      {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED, &fabric},
  };
  for (const auto& read : kRead)
    if (!driver_.Check(driver_.cuDeviceGetAttribute(read.value, read.attribute, device->handle),
                       wrong, "attribute %d of device %d", int(read.attribute), ordinal))
      return false;
  info.architecture = uint32_t(10 * major + minor);
  info.processors = uint32_t(processors);
  device->block_shared_bytes = uint32_t(shared);
  info.copy_engines = uint32_t(engines);
  info.has_vmm = vmm && descriptors;
  info.has_fabric_handles = info.has_vmm && fabric;
  info.has_kernels = KernelCode::BuiltFor(info.architecture);
  if (!info.has_vmm) return true;
  const CUmemAllocationProp made = SharedMemoryOf(device->handle, false);
  size_t granularity = 0;
  if (!driver_.Check(driver_.cuMemGetAllocationGranularity(&granularity, &made,
                                                           CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
                     wrong, "the granularity of device %d", ordinal))
    return false;
  info.granularity = granularity;
  return true;
}

const Device* Devices::Find(uint32_t device, BackendText* wrong) const {
  if (device < devices_.size()) return devices_[device].get();
  Say(wrong, "no device %u: this process sees %zu", device, devices_.size());
  return nullptr;
}

const Device* Devices::FindUsed(uint32_t device, BackendText* wrong) const {
  const Device* const found = Find(device, wrong);
  if (!found || found->context.load(std::memory_order_acquire)) return found;
  Say(wrong, "device %u is not in use by this process", device);
  return nullptr;
}

int32_t Devices::Number(CUdevice handle) const {
  const auto found = std::find_if(devices_.begin(), devices_.end(),
                                  [&](const auto& d) { return d->handle == handle; });
  return found == devices_.end() ? -1 : int32_t(found - devices_.begin());
}

bool Devices::Describe(uint32_t device, DeviceInfo* info, BackendText* wrong) const {
  const Device* const found = Find(device, wrong);
  if (!found) return false;
  *info = found->info;
  info->free_bytes = FreeInContext(*found);
  nvml_.DescribeFabric(info);
  return true;
}

bool Devices::CanReach(uint32_t device, uint32_t peer) const {
  const Device *const from = Find(device, nullptr), *const to = Find(peer, nullptr);
  if (!from || !to) return false;
  int can = 0;
  return from == to ||
         (driver_.cuDeviceCanAccessPeer(&can, from->handle, to->handle) == CUDA_SUCCESS && can);
}

bool Devices::Use(uint32_t device, BackendText* wrong) {
  if (!Find(device, wrong)) return false;
  Device& used = *devices_[device];
  std::lock_guard lock(use_mutex_);
  if (used.context.load(std::memory_order_relaxed)) return true;
  CUcontext context = nullptr;
  if (!driver_.Check(driver_.cuDevicePrimaryCtxRetain(&context, used.handle), wrong,
                     "the primary context of device %u", device))
    return false;
  if (!Prepare(&used, context, wrong)) {
    driver_.cuDevicePrimaryCtxRelease(used.handle);
    return false;
  }
  used.context.store(context, std::memory_order_release);
  return true;
}

bool Devices::Prepare(Device* device, CUcontext context, BackendText* wrong) const {
  const InContext inside(driver_, context, wrong);
  if (!inside) return false;
  CUstream stream = nullptr;
  if (!driver_.Check(driver_.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), wrong,
                     "making a stream"))
    return false;
  if (!device->code.Load(driver_, device->info.architecture, device->block_shared_bytes, wrong)) {
    driver_.cuStreamDestroy(stream);
    return false;
  }
  device->own_stream = stream;
  return true;
}

uint64_t Devices::FreeInContext(const Device& device) const {
  const CUcontext context = device.context.load(std::memory_order_acquire);
  if (!context) return 0;
  const InContext inside(driver_, context, nullptr);
  size_t free = 0, total = 0;
  return inside && driver_.cuMemGetInfo(&free, &total) == CUDA_SUCCESS ? free : 0;
}

uint64_t Devices::FreeBytes(const Device& device) const {
  const uint64_t free = FreeInContext(device);
  return free != 0 ? free : nvml_.FreeBytes(device.info.uuid);
}

}  // namespace ultraep

#include "kernels/cuda/memory.h"

#include <fcntl.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>

namespace ultraep {
namespace {

CUdeviceptr Address(const void* at) { return reinterpret_cast<CUdeviceptr>(at); }
void* Pointer(CUdeviceptr at) { return reinterpret_cast<void*>(at); }

}  // namespace

bool Memory::Made(CUresult result, const Device& device, uint64_t bytes, const char* what,
                  BackendText* wrong) const {
  if (result != CUDA_ERROR_OUT_OF_MEMORY)
    return driver_.Check(result, wrong, "%s of %" PRIu64 " bytes on %s", what, bytes,
                         device.info.name);
  const uint64_t free = devices_.FreeBytes(device);
  char of_these[64] = "unknown";
  if (free != 0) std::snprintf(of_these, sizeof(of_these), "%" PRIu64 " bytes", free);
  return driver_.Check(result, wrong, "%s of %" PRIu64 " bytes on %s (free: %s of %" PRIu64 ")",
                       what, bytes, device.info.name, of_these, device.info.memory_bytes);
}

bool Memory::Create(uint32_t device, uint64_t bytes, bool fabric, uint64_t* handle,
                    BackendText* wrong) const {
  const Device* const on = devices_.Find(device, wrong);
  if (!on) return false;
  if (!on->info.has_vmm)
    return Say(wrong,
               "device %u (%s) has no virtual memory management with file descriptors: slots in "
               "GPU memory need it",
               device, on->info.name),
           false;
  if (fabric && !on->info.has_fabric_handles)
    return Say(wrong,
               "device %u (%s) has no fabric handles: memory that other machines map needs "
               "them",
               device, on->info.name),
           false;
  if (bytes % on->info.granularity != 0)
    return Say(wrong, "%" PRIu64 " bytes: a multiple of %" PRIu64 " is needed", bytes,
               on->info.granularity),
           false;
  const CUmemAllocationProp made = SharedMemoryOf(on->handle, fabric);
  CUmemGenericAllocationHandle created = 0;
  if (!Made(driver_.cuMemCreate(&created, bytes, &made, 0), *on, bytes, "shared memory", wrong))
    return false;
  *handle = created;
  return true;
}

bool Memory::ExportDescriptor(uint64_t handle, int* fd, BackendText* wrong) const {
  if (!driver_.Check(driver_.cuMemExportToShareableHandle(
                         fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                     wrong, "a file descriptor of shared memory"))
    return false;
  fcntl(*fd, F_SETFD, FD_CLOEXEC);  // else the memory lives on in what is started meanwhile
  return true;
}

bool Memory::ExportFabric(uint64_t handle, FabricHandle* out, BackendText* wrong) const {
  static_assert(sizeof(FabricHandle) == sizeof(CUmemFabricHandle));
  return driver_.Check(
      driver_.cuMemExportToShareableHandle(out, handle, CU_MEM_HANDLE_TYPE_FABRIC, 0), wrong,
      "a fabric handle of shared memory");
}

bool Memory::ImportDescriptor(int fd, uint64_t* handle, BackendText* wrong) const {
  CUmemGenericAllocationHandle imported = 0;
  if (!driver_.Check(
          driver_.cuMemImportFromShareableHandle(&imported, reinterpret_cast<void*>(intptr_t{fd}),
                                                 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
          wrong, "importing shared memory by descriptor %d", fd))
    return false;
  *handle = imported;
  return true;
}

bool Memory::ImportFabric(const FabricHandle& from, uint64_t* handle, BackendText* wrong) const {
  CUmemGenericAllocationHandle imported = 0;
  FabricHandle copy = from;  // the driver takes it as not const
  if (!driver_.Check(
          driver_.cuMemImportFromShareableHandle(&imported, &copy, CU_MEM_HANDLE_TYPE_FABRIC),
          wrong, "importing shared memory by fabric handle"))
    return false;
  *handle = imported;
  return true;
}

bool Memory::Map(uint32_t device, uint64_t handle, uint64_t bytes, void** at,
                 BackendText* wrong) const {
  const Device* const by = devices_.FindUsed(device, wrong);
  if (!by) return false;
  const InContext inside(driver_, by->context, wrong);
  if (!inside) return false;
  CUdeviceptr address = 0;
  if (!driver_.Check(driver_.cuMemAddressReserve(&address, bytes, 0, 0, 0), wrong,
                     "%" PRIu64 " bytes of addresses", bytes))
    return false;
  CUmemAccessDesc access = {};
  access.location = {CU_MEM_LOCATION_TYPE_DEVICE, {by->handle}};
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  const bool mapped = driver_.Check(driver_.cuMemMap(address, bytes, 0, handle, 0), wrong,
                                    "mapping %" PRIu64 " bytes of shared memory", bytes);
  if (mapped && driver_.Check(driver_.cuMemSetAccess(address, bytes, &access, 1), wrong,
                              "access of device %u to %" PRIu64
                              " bytes of shared memory (have they peer access?)",
                              device, bytes)) {
    *at = Pointer(address);
    return true;
  }
  if (mapped) driver_.cuMemUnmap(address, bytes);
  driver_.cuMemAddressFree(address, bytes);
  return false;
}

void Memory::Unmap(void* at, uint64_t bytes) const {
  // Addresses that are still mapped stay reserved: better lost than mapped twice.
  if (driver_.cuMemUnmap(Address(at), bytes) == CUDA_SUCCESS)
    driver_.cuMemAddressFree(Address(at), bytes);
}

void Memory::Release(uint64_t handle) const { driver_.cuMemRelease(handle); }

bool Memory::Allocate(uint32_t device, uint64_t bytes, void** at, BackendText* wrong) const {
  const Device* const on = devices_.FindUsed(device, wrong);
  if (!on) return false;
  CUresult result;
  CUdeviceptr address = 0;
  {
    const InContext inside(driver_, on->context, wrong);
    if (!inside) return false;
    result = driver_.cuMemAlloc(&address, bytes);
  }
  if (!Made(result, *on, bytes, "memory", wrong)) return false;
  *at = Pointer(address);
  return true;
}

void Memory::Free(uint32_t device, void* at) const {
  const Device* const on = devices_.FindUsed(device, nullptr);
  if (!on) return;
  const InContext inside(driver_, on->context, nullptr);
  if (inside) driver_.cuMemFree(Address(at));
}

bool Memory::AllocatePinned(uint32_t device, uint64_t bytes, void** host, void** mapped,
                            BackendText* wrong) const {
  const Device* const on = devices_.FindUsed(device, wrong);
  if (!on) return false;
  const InContext inside(driver_, on->context, wrong);
  if (!inside) return false;
  void* made = nullptr;
  if (!driver_.Check(driver_.cuMemHostAlloc(&made, bytes,
                                            CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP),
                     wrong, "%" PRIu64 " bytes of pinned memory", bytes))
    return false;
  CUdeviceptr seen = 0;
  if (!driver_.Check(driver_.cuMemHostGetDevicePointer(&seen, made, 0), wrong,
                     "the device's address of pinned memory")) {
    driver_.cuMemFreeHost(made);
    return false;
  }
  std::memset(made, 0, bytes);
  *host = made;
  *mapped = Pointer(seen);
  return true;
}

void Memory::FreePinned(uint32_t device, void* host) const {
  const Device* const on = devices_.FindUsed(device, nullptr);
  if (!on) return;
  const InContext inside(driver_, on->context, nullptr);
  if (inside) driver_.cuMemFreeHost(host);
}

template <typename Work>
bool Memory::Await(uint32_t device, const char* what, uint64_t bytes, BackendText* wrong,
                   Work work) const {
  const Device* const on = devices_.FindUsed(device, wrong);
  if (!on) return false;
  const InContext inside(driver_, on->context, wrong);
  if (!inside) return false;
  CUresult result = work(on->own_stream);
  if (result == CUDA_SUCCESS) result = driver_.cuStreamSynchronize(on->own_stream);
  return driver_.Check(result, wrong, "%s %" PRIu64 " bytes of device %u", what, bytes, device);
}

bool Memory::Copy(uint32_t device, void* to, const void* from, uint64_t bytes,
                  BackendText* wrong) const {
  return Await(device, "copying", bytes, wrong, [&](CUstream stream) {
    return driver_.cuMemcpyAsync(Address(to), Address(from), bytes, stream);
  });
}

bool Memory::Zero(uint32_t device, void* at, uint64_t bytes, BackendText* wrong) const {
  return Await(device, "zeroing", bytes, wrong, [&](CUstream stream) {
    return driver_.cuMemsetD8Async(Address(at), 0, bytes, stream);
  });
}

}  // namespace ultraep

// Entry points about memory: device memory is memory of the host. What is unmapped or freed stays
// reserved without access, so that whoever uses it later crashes.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "tests/support/fake_cuda/queues.h"

using namespace ultraep::fake_cuda;

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMark = 0x616475635f656b61;  // tells these files from others

// Behind the memory in its file, so that an importing process learns it.
struct Trailer {
  uint64_t mark = kMark, bytes = 0;
  int device = 0;
  bool fabric = false;
};

struct Allocation {
  ~Allocation() {
    close(file);
    if (own) Machine::Get().Return(trailer.device, trailer.bytes);
  }
  int file = -1;
  bool own = false;  // counts as this process's
  Trailer trailer;
};

struct Mapping {
  uint64_t bytes = 0;
  std::shared_ptr<Allocation> of;
};

struct FabricName {  // fits a CUmemFabricHandle
  uint64_t mark = kMark;
  int process = 0, file = 0;
};

std::mutex memory_mutex;
struct Books {
  std::map<uint64_t, std::shared_ptr<Allocation>> handles;
  uint64_t next_handle = 1;
  std::map<CUdeviceptr, uint64_t> reservations;
  std::map<CUdeviceptr, Mapping> mappings;
  std::map<CUdeviceptr, uint64_t> memory, pinned;
};
Books& All() {
  static Books* const books = new Books;
  return *books;
}

void* Pointer(CUdeviceptr at) { return reinterpret_cast<void*>(at); }

// Aligned, with a page without access behind it. 0: none.
CUdeviceptr Reserve(uint64_t bytes, int access) {
  const uint64_t whole = bytes + kGranularity + kPage;
  void* const at =
      mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return 0;
  const CUdeviceptr first =
      (reinterpret_cast<CUdeviceptr>(at) + kGranularity - 1) / kGranularity * kGranularity;
  if (access != PROT_NONE && mprotect(Pointer(first), bytes, access) != 0) return 0;
  return first;
}

void TakeAccess(CUdeviceptr at, uint64_t bytes) {
  mmap(Pointer(at), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
       0);
}

uint64_t AddHandle(std::shared_ptr<Allocation> allocation) {
  Machine::Get().Count("handles", 1);
  std::lock_guard lock(memory_mutex);
  All().handles[All().next_handle] = std::move(allocation);
  return All().next_handle++;
}

std::shared_ptr<Allocation> FindHandle(uint64_t handle) {
  std::lock_guard lock(memory_mutex);
  const auto found = All().handles.find(handle);
  return found == All().handles.end() ? nullptr : found->second;
}

bool Write(const Allocation& made) {
  return ftruncate(made.file, off_t(made.trailer.bytes + kPage)) == 0 &&
         pwrite(made.file, &made.trailer, sizeof(Trailer), off_t(made.trailer.bytes)) ==
             sizeof(Trailer);
}

bool Read(Allocation* imported) {
  const off_t end = lseek(imported->file, 0, SEEK_END);
  Trailer trailer;
  if (end <= off_t(kPage) || pread(imported->file, &trailer, sizeof(trailer), end - off_t(kPage)) !=
                                 ssize_t(sizeof(trailer)))
    return false;
  imported->trailer = trailer;
  return trailer.mark == kMark;
}

CUresult Free(std::map<CUdeviceptr, uint64_t>* of, const char* kind, CUdeviceptr at,
              uint64_t* bytes) {
  std::unique_lock lock(memory_mutex);
  const auto found = of->find(at);
  if (found == of->end()) return CUDA_ERROR_INVALID_VALUE;
  *bytes = found->second;
  of->erase(found);
  lock.unlock();
  TakeAccess(at, *bytes);
  Machine::Get().Count(kind, -int64_t(*bytes));
  return CUDA_SUCCESS;
}

}  // namespace

CUresult cuMemGetInfo(size_t* free, size_t* total) {
  FAKE_CUDA_CONTEXT(context);
  std::lock_guard lock(Machine::Get().mutex);
  *total = Machine::Get().options.memory;
  *free = *total - context->used;
  return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp* made,
                                       CUmemAllocationGranularity_flags) {
  FAKE_CUDA_CALLED();
  if (made->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  *bytes = kGranularity;
  return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes,
                     const CUmemAllocationProp* made, unsigned long long flags) {
  FAKE_CUDA_CALLED();
  Machine& machine = Machine::Get();
  if (machine.Lacks("vmm")) return CUDA_ERROR_NOT_SUPPORTED;
  const bool fabric = made->requestedHandleTypes & CU_MEM_HANDLE_TYPE_FABRIC;
  if (fabric && machine.Lacks("fabric")) return CUDA_ERROR_NOT_SUPPORTED;
  if (bytes == 0 || bytes % kGranularity != 0 || flags != 0 ||
      made->type != CU_MEM_ALLOCATION_TYPE_PINNED ||
      made->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    return CUDA_ERROR_INVALID_VALUE;
  const int device = made->location.id;
  if (device < 0 || device >= machine.options.devices) return CUDA_ERROR_INVALID_DEVICE;
  if (!machine.Take(device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  auto allocation = std::make_shared<Allocation>();
  allocation->own = true;
  allocation->trailer = {kMark, bytes, device, fabric};
  allocation->file = memfd_create("fake CUDA memory", MFD_CLOEXEC);
  if (allocation->file < 0 || !Write(*allocation)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = AddHandle(std::move(allocation));
  return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  FAKE_CUDA_CALLED();
  std::shared_ptr<Allocation> released;  // ends after the lock
  {
    std::lock_guard lock(memory_mutex);
    const auto found = All().handles.find(handle);
    if (found == All().handles.end()) return CUDA_ERROR_INVALID_VALUE;
    released = std::move(found->second);
    All().handles.erase(found);
  }
  Machine::Get().Count("handles", -1);
  return CUDA_SUCCESS;
}

CUresult cuMemExportToShareableHandle(void* out, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType type, unsigned long long) {
  FAKE_CUDA_CALLED();
  const std::shared_ptr<Allocation> allocation = FindHandle(handle);
  if (!allocation) return CUDA_ERROR_INVALID_VALUE;
  if (type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    const int copy = fcntl(allocation->file, F_DUPFD, 0);  // nothing promises more
    if (copy < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    *static_cast<int*>(out) = copy;
    return CUDA_SUCCESS;
  }
  if (type != CU_MEM_HANDLE_TYPE_FABRIC || !allocation->trailer.fabric)
    return CUDA_ERROR_INVALID_VALUE;
  const FabricName name = {kMark, getpid(), allocation->file};
  static_assert(sizeof(name) <= sizeof(CUmemFabricHandle));
  std::memset(out, 0, sizeof(CUmemFabricHandle));
  std::memcpy(out, &name, sizeof(name));
  return CUDA_SUCCESS;
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* from,
                                        CUmemAllocationHandleType type) {
  FAKE_CUDA_CALLED();
  auto allocation = std::make_shared<Allocation>();
  if (type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    allocation->file = fcntl(int(reinterpret_cast<intptr_t>(from)), F_DUPFD_CLOEXEC, 0);
  } else if (type == CU_MEM_HANDLE_TYPE_FABRIC) {
    if (Machine::Get().Lacks("fabric")) return CUDA_ERROR_NOT_SUPPORTED;
    FabricName name;
    std::memcpy(&name, from, sizeof(name));
    if (name.mark != kMark) return CUDA_ERROR_INVALID_VALUE;
    char path[64];
    std::snprintf(path, sizeof(path), "/proc/%d/fd/%d", name.process, name.file);
    allocation->file = open(path, O_RDWR | O_CLOEXEC);
  }
  if (allocation->file < 0 || !Read(allocation.get())) return CUDA_ERROR_INVALID_VALUE;
  *handle = AddHandle(std::move(allocation));
  return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr* at, size_t bytes, size_t, CUdeviceptr,
                             unsigned long long) {
  FAKE_CUDA_CALLED();
  if (bytes == 0 || bytes % kGranularity != 0) return CUDA_ERROR_INVALID_VALUE;
  *at = Reserve(bytes, PROT_NONE);
  if (*at == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  Machine::Get().Count("reservations", 1);
  std::lock_guard lock(memory_mutex);
  All().reservations[*at] = bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr at, size_t bytes) {
  FAKE_CUDA_CALLED();
  {
    std::lock_guard lock(memory_mutex);
    const auto found = All().reservations.find(at);
    if (found == All().reservations.end() || found->second != bytes ||
        All().mappings.count(at) != 0)
      return CUDA_ERROR_INVALID_VALUE;
    All().reservations.erase(found);
  }
  Machine::Get().Count("reservations", -1);
  return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr at, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags) {
  FAKE_CUDA_CALLED();
  const std::shared_ptr<Allocation> allocation = FindHandle(handle);
  std::lock_guard lock(memory_mutex);
  const auto reserved = All().reservations.find(at);
  if (!allocation || offset != 0 || flags != 0 || bytes != allocation->trailer.bytes ||
      reserved == All().reservations.end() || reserved->second != bytes ||
      All().mappings.count(at) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (mmap(Pointer(at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, allocation->file, 0) ==
      MAP_FAILED)
    return CUDA_ERROR_MAP_FAILED;
  All().mappings[at] = {bytes, allocation};
  Machine::Get().Count("mappings", 1);
  return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr at, size_t bytes) {
  FAKE_CUDA_CALLED();
  Mapping mapping;
  {
    std::lock_guard lock(memory_mutex);
    const auto found = All().mappings.find(at);
    if (found == All().mappings.end() || found->second.bytes != bytes)
      return CUDA_ERROR_INVALID_VALUE;
    mapping = std::move(found->second);
    All().mappings.erase(found);
    TakeAccess(at, bytes);
  }
  Machine::Get().Count("mappings", -1);
  return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr at, size_t bytes, const CUmemAccessDesc* access, size_t count) {
  FAKE_CUDA_CALLED();
  std::lock_guard lock(memory_mutex);
  const auto found = All().mappings.find(at);
  if (found == All().mappings.end() || found->second.bytes != bytes || count != 1 ||
      access->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
      access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
    return CUDA_ERROR_INVALID_VALUE;
  const int by = access->location.id, device = found->second.of->trailer.device;
  if (by < 0 || by >= Machine::Get().options.devices || !Machine::Get().IsPeer(by, device))
    return CUDA_ERROR_INVALID_DEVICE;
  return mprotect(Pointer(at), bytes, PROT_READ | PROT_WRITE) == 0 ? CUDA_SUCCESS
                                                                   : CUDA_ERROR_MAP_FAILED;
}

CUresult cuMemAlloc(CUdeviceptr* at, size_t bytes) {
  FAKE_CUDA_CONTEXT(context);
  if (const CUresult result = MayBlock(); result != CUDA_SUCCESS) return result;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (!Machine::Get().Take(context->device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *at = Reserve(bytes, PROT_READ | PROT_WRITE);
  if (*at == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  std::memset(Pointer(*at), 0xa5, bytes);  // never zero by chance
  Machine::Get().Count("memory", int64_t(bytes));
  std::lock_guard lock(memory_mutex);
  All().memory[*at] = bytes;
  return CUDA_SUCCESS;
}

// Waits for the device, as the real one does: a caller that a running kernel waits for hangs here.
CUresult cuMemFree(CUdeviceptr at) {
  FAKE_CUDA_CONTEXT(context);
  if (const CUresult result = MayBlock(); result != CUDA_SUCCESS) return result;
  WaitForContext(context);
  uint64_t bytes = 0;
  const CUresult result = Free(&All().memory, "memory", at, &bytes);
  if (result == CUDA_SUCCESS) Machine::Get().Return(context->device, bytes);
  return result;
}

CUresult cuMemHostAlloc(void** at, size_t bytes, unsigned int flags) {
  FAKE_CUDA_CONTEXT(context);
  if (const CUresult result = MayBlock(); result != CUDA_SUCCESS) return result;
  if (bytes == 0 || flags != (CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP))
    return CUDA_ERROR_INVALID_VALUE;
  const CUdeviceptr made = Reserve(bytes, PROT_READ | PROT_WRITE);
  if (made == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  *at = Pointer(made);
  std::memset(*at, 0xa5, bytes);
  Machine::Get().Count("pinned", int64_t(bytes));
  std::lock_guard lock(memory_mutex);
  All().pinned[made] = bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void* at) {
  FAKE_CUDA_CONTEXT(context);
  if (const CUresult result = MayBlock(); result != CUDA_SUCCESS) return result;
  WaitForContext(context);
  uint64_t bytes = 0;
  return Free(&All().pinned, "pinned", reinterpret_cast<CUdeviceptr>(at), &bytes);
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr* seen, void* host, unsigned int) {
  FAKE_CUDA_CONTEXT(context);
  std::lock_guard lock(memory_mutex);
  *seen = reinterpret_cast<CUdeviceptr>(host);
  return All().pinned.count(*seen) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// The agreement with the CUDA backend, libultraep_cuda.so: the only code that knows the driver.
// Loaded at run time by the plugin and, for memory that the daemon owns, by the daemon
// (transport/load_backend.h); both go on with host memory when it or the driver is missing.
//
// No C++ library types cross this boundary, and nothing throws. Functions return false with `wrong`
// set: what was found and what is needed. Any thread may call; the calling thread's current CUDA
// context is left as it was.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ultraep {

// Both sides must be from one release: compared with kBuildVersion as well.
inline constexpr uint32_t kBackendVersion = 1;

struct BackendText {
  char text[480] = {};
};

// Paths of libraries, or null: what the loader finds under the usual names.
struct BackendOptions {
  const char* driver = nullptr;  // libcuda.so.1
  const char* nvml = nullptr;    // libnvidia-ml.so.1
  const char* nccl = nullptr;    // libnccl.so.2; one that the process has loaded comes first
};

// NVML's answer about NVLink over several machines; kNone without it (no NVML, no fabric).
enum class FabricState : uint32_t { kNone = 0, kPending = 1, kReady = 2 };

struct DeviceInfo {
  char name[64] = {};
  unsigned char uuid[16] = {};
  unsigned char cluster[16] = {};  // NVLink fabric: cluster and clique say who may reach whom
  uint32_t clique = 0;
  FabricState fabric = FabricState::kNone;
  uint32_t architecture = 0;    // compute capability: 10 x major + minor
  uint32_t processors = 0;      // SMs
  uint32_t driver_version = 0;  // 13000: 13.0
  uint32_t has_vmm = 0;         // virtual memory management, exported as descriptors
  uint32_t has_fabric_handles = 0;
  uint32_t has_kernels = 0;  // the backend holds code for this architecture
  uint32_t copy_engines = 0;
  uint32_t unused = 0;
  uint64_t memory_bytes = 0, free_bytes = 0;
  uint64_t granularity = 0;  // of physical memory, bytes
};

struct FabricHandle {
  unsigned char bytes[64] = {};
};

enum class Kernel : uint32_t;  // kernels/device/kernel_list.h

class DeviceBackend {
 public:
  // ---- what there is
  virtual const char* architectures() = 0;  // that kernels are built for: "sm_90a sm_100a"
  virtual const char* build_version() = 0;
  virtual uint32_t device_count() = 0;
  // Without a context: the daemon never makes one. free_bytes is 0 unless the process has a
  // context.
  virtual bool Describe(uint32_t device, DeviceInfo* info, BackendText* wrong) = 0;
  // May `device` map memory of `peer`? Also true for itself.
  virtual bool CanReach(uint32_t device, uint32_t peer) = 0;
  // This process will use the device: its primary context (the framework's) is held from now on,
  // and the kernels are loaded.
  virtual bool Use(uint32_t device, BackendText* wrong) = 0;
  // The device of the calling thread's current context, -1: none.
  virtual int32_t current_device() = 0;

  // ---- physical memory that other processes map (VMM); a handle is never 0
  virtual bool Create(uint32_t device, uint64_t bytes, bool fabric, uint64_t* handle,
                      BackendText* wrong) = 0;
  virtual bool ExportDescriptor(uint64_t handle, int* fd, BackendText* wrong) = 0;
  virtual bool ExportFabric(uint64_t handle, FabricHandle* out, BackendText* wrong) = 0;
  virtual bool ImportDescriptor(int fd, uint64_t* handle, BackendText* wrong) = 0;
  virtual bool ImportFabric(const FabricHandle& from, uint64_t* handle, BackendText* wrong) = 0;
  // Into this process, readable and writable by `device`.
  virtual bool Map(uint32_t device, uint64_t handle, uint64_t bytes, void** at,
                   BackendText* wrong) = 0;
  virtual void Unmap(void* at, uint64_t bytes) = 0;
  // The memory lives on as long as somebody maps it or holds another handle.
  virtual void Release(uint64_t handle) = 0;

  // ---- private memory, and set-up; these block, and wait for no stream but their own
  virtual bool Allocate(uint32_t device, uint64_t bytes, void** at, BackendText* wrong) = 0;
  virtual void Free(uint32_t device, void* at) = 0;
  // Zeroed; `mapped` is the device's address of it.
  virtual bool AllocatePinned(uint32_t device, uint64_t bytes, void** host, void** mapped,
                              BackendText* wrong) = 0;
  virtual void FreePinned(uint32_t device, void* host) = 0;
  virtual bool ToDevice(uint32_t device, void* to, const void* from, uint64_t bytes,
                        BackendText* wrong) = 0;
  virtual bool FromDevice(uint32_t device, void* to, const void* from, uint64_t bytes,
                          BackendText* wrong) = 0;
  virtual bool Zero(uint32_t device, void* at, uint64_t bytes, BackendText* wrong) = 0;

  // ---- streams; `stream` is a CUstream or cudaStream_t of the device, null: the legacy one
  virtual bool MakeStream(uint32_t device, void** stream, BackendText* wrong) = 0;
  virtual void FreeStream(uint32_t device, void* stream) = 0;
  virtual bool MakeEvent(uint32_t device, bool timed, void** event, BackendText* wrong) = 0;
  virtual void FreeEvent(uint32_t device, void* event) = 0;
  virtual bool Record(uint32_t device, void* event, void* stream, BackendText* wrong) = 0;
  virtual bool WaitEvent(uint32_t device, void* stream, void* event, BackendText* wrong) = 0;
  // Between two timed events that are over.
  virtual bool Elapsed(uint32_t device, void* from, void* to, float* milliseconds,
                       BackendText* wrong) = 0;
  // Blocks the calling thread.
  virtual bool Synchronize(uint32_t device, void* stream, BackendText* wrong) = 0;
  // The stream records a graph at present: nothing runs, so the host must not wait for it.
  virtual bool IsCapturing(uint32_t device, void* stream) = 0;
  // `arguments`: the kernel's one struct, copied before it returns. experts: of the group.
  virtual bool Launch(uint32_t device, Kernel kernel, uint32_t blocks, uint32_t experts,
                      const void* arguments, void* stream, BackendText* wrong) = 0;
  // Blocks of the kernel that can run at once on the device; 0: unknown.
  virtual uint32_t ResidentBlocks(uint32_t device, Kernel kernel, uint32_t experts) = 0;
  // Copies on the device's copy engines, one after the other or several at once.
  virtual bool CopyAsync(uint32_t device, void* const* to, const void* const* from,
                         const uint64_t* bytes, uint32_t count, void* stream,
                         BackendText* wrong) = 0;

  // ---- NCCL, of the framework's process; version e.g. 22809, 0: none, `wrong` says why
  virtual uint32_t NcclVersion(BackendText* wrong) = 0;
  // rows[ranks][experts] = every rank's row[experts], in the communicator's rank order; in stream
  // order, enqueued beside the framework's own collectives: all ranks in the same place.
  virtual bool GatherRows(uint32_t device, void* communicator, const uint32_t* row, uint32_t* rows,
                          uint32_t experts, void* stream, BackendText* wrong) = 0;

 protected:
  ~DeviceBackend() = default;
};

// What libultraep_cuda.so exports. Loads the driver; null with `wrong` set when there is none that
// can be used. The backend lives as long as the process, one for all callers.
using OpenBackendFunction = DeviceBackend* (*)(uint32_t backend_version, const BackendOptions*,
                                               BackendText* wrong);
inline constexpr const char* kOpenBackendSymbol = "ultraep_open_backend";

}  // namespace ultraep

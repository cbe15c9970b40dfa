// libultraep_cuda.so: the agreement of protocol/device_backend.h on top of the driver.
#include <memory>
#include <mutex>
#include <string>

#include "kernels/cuda/devices.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/nccl.h"
#include "protocol/version.h"

namespace ultraep {
namespace {

class CudaBackend final : public DeviceBackend {
 public:
  bool Open(const BackendOptions& options, BackendText* wrong) {
    if (options.nccl) nccl_path_ = options.nccl;
    if (!driver_.Load(options.driver, wrong)) return false;
    nvml_.Load(options.nvml);
    return devices_.Open(wrong);
  }

  const char* architectures() override { return KernelCode::Architectures(); }
  const char* build_version() override { return kBuildVersion; }
  uint32_t device_count() override { return devices_.count(); }
  bool Describe(uint32_t device, DeviceInfo* info, BackendText* wrong) override {
    return devices_.Describe(device, info, wrong);
  }
  bool CanReach(uint32_t device, uint32_t peer) override { return devices_.CanReach(device, peer); }
  bool Use(uint32_t device, BackendText* wrong) override { return devices_.Use(device, wrong); }
  int32_t current_device() override {
    CUcontext current = nullptr;
    CUdevice device = 0;
    if (driver_.cuCtxGetCurrent(&current) != CUDA_SUCCESS || !current ||
        driver_.cuCtxGetDevice(&device) != CUDA_SUCCESS)
      return -1;
    return devices_.Number(device);
  }

  bool Create(uint32_t device, uint64_t bytes, bool fabric, uint64_t* handle,
              BackendText* wrong) override {
    return memory_.Create(device, bytes, fabric, handle, wrong);
  }
  bool ExportDescriptor(uint64_t handle, int* fd, BackendText* wrong) override {
    return memory_.ExportDescriptor(handle, fd, wrong);
  }
  bool ExportFabric(uint64_t handle, FabricHandle* out, BackendText* wrong) override {
    return memory_.ExportFabric(handle, out, wrong);
  }
  bool ImportDescriptor(int fd, uint64_t* handle, BackendText* wrong) override {
    return memory_.ImportDescriptor(fd, handle, wrong);
  }
  bool ImportFabric(const FabricHandle& from, uint64_t* handle, BackendText* wrong) override {
    return memory_.ImportFabric(from, handle, wrong);
  }
  bool Map(uint32_t device, uint64_t handle, uint64_t bytes, void** at,
           BackendText* wrong) override {
    return memory_.Map(device, handle, bytes, at, wrong);
  }
  void Unmap(void* at, uint64_t bytes) override { memory_.Unmap(at, bytes); }
  void Release(uint64_t handle) override { memory_.Release(handle); }

  bool Allocate(uint32_t device, uint64_t bytes, void** at, BackendText* wrong) override {
    return memory_.Allocate(device, bytes, at, wrong);
  }
  void Free(uint32_t device, void* at) override { memory_.Free(device, at); }
  bool AllocatePinned(uint32_t device, uint64_t bytes, void** host, void** mapped,
                      BackendText* wrong) override {
    return memory_.AllocatePinned(device, bytes, host, mapped, wrong);
  }
  void FreePinned(uint32_t device, void* host) override { memory_.FreePinned(device, host); }
  bool ToDevice(uint32_t device, void* to, const void* from, uint64_t bytes,
                BackendText* wrong) override {
    return memory_.Copy(device, to, from, bytes, wrong);
  }
  bool FromDevice(uint32_t device, void* to, const void* from, uint64_t bytes,
                  BackendText* wrong) override {
    return memory_.Copy(device, to, from, bytes, wrong);
  }
  bool Zero(uint32_t device, void* at, uint64_t bytes, BackendText* wrong) override {
    return memory_.Zero(device, at, bytes, wrong);
  }

  bool MakeStream(uint32_t device, void** stream, BackendText* wrong) override {
    return In(device, wrong, [&](const Device&) {
      CUstream made = nullptr;
      return Set(stream, made, driver_.cuStreamCreate(&made, CU_STREAM_NON_BLOCKING), wrong,
                 "making a stream");
    });
  }
  void FreeStream(uint32_t device, void* stream) override {
    In(device, nullptr,
       [&](const Device&) { return driver_.cuStreamDestroy(CUstream(stream)) == CUDA_SUCCESS; });
  }
  bool MakeEvent(uint32_t device, bool timed, void** event, BackendText* wrong) override {
    return In(device, wrong, [&](const Device&) {
      CUevent made = nullptr;
      const unsigned flags = timed ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING;
      return Set(event, made, driver_.cuEventCreate(&made, flags), wrong, "making an event");
    });
  }
  void FreeEvent(uint32_t device, void* event) override {
    In(device, nullptr,
       [&](const Device&) { return driver_.cuEventDestroy(CUevent(event)) == CUDA_SUCCESS; });
  }
  bool Record(uint32_t device, void* event, void* stream, BackendText* wrong) override {
    return In(device, wrong, [&](const Device&) {
      return driver_.Check(driver_.cuEventRecord(CUevent(event), CUstream(stream)), wrong,
                           "recording an event on device %u", device);
    });
  }
  bool WaitEvent(uint32_t device, void* stream, void* event, BackendText* wrong) override {
    return In(device, wrong, [&](const Device&) {
      return driver_.Check(driver_.cuStreamWaitEvent(CUstream(stream), CUevent(event), 0), wrong,
                           "letting a stream of device %u wait", device);
    });
  }
  bool Elapsed(uint32_t device, void* from, void* to, float* milliseconds,
               BackendText* wrong) override {
    return In(device, wrong, [&](const Device&) {
      return driver_.Check(driver_.cuEventElapsedTime(milliseconds, CUevent(from), CUevent(to)),
                           wrong, "the time between events of device %u", device);
    });
  }
  bool Synchronize(uint32_t device, void* stream, BackendText* wrong) override {
    return In(device, wrong, [&](const Device&) {
      return driver_.Check(driver_.cuStreamSynchronize(CUstream(stream)), wrong,
                           "waiting for a stream of device %u", device);
    });
  }
  bool IsCapturing(uint32_t device, void* stream) override {
    return In(device, nullptr, [&](const Device&) {
      CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
      const CUresult result = driver_.cuStreamIsCapturing(CUstream(stream), &status);
      // The legacy stream cannot be asked while another one is captured: waiting is no better.
      return result == CUDA_ERROR_STREAM_CAPTURE_IMPLICIT ||
             (result == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE);
    });
  }

  bool Launch(uint32_t device, Kernel kernel, uint32_t blocks, uint32_t experts,
              const void* arguments, void* stream, BackendText* wrong) override {
    return In(device, wrong, [&](const Device& on) {
      const KernelTraits& traits = kKernelTraits[uint32_t(kernel)];
      void* parameters[] = {const_cast<void*>(arguments)};
      return driver_.Check(
          driver_.cuLaunchKernel(on.code.function(kernel), blocks, 1, 1, traits.threads, 1, 1,
                                 on.code.SharedBytes(kernel, experts), CUstream(stream), parameters,
                                 nullptr),
          wrong, "launching %u blocks of %s on device %u", blocks, traits.name, device);
    });
  }
  uint32_t ResidentBlocks(uint32_t device, Kernel kernel, uint32_t experts) override {
    int blocks = 0;
    uint32_t processors = 0;
    const bool known = In(device, nullptr, [&](const Device& on) {
      processors = on.info.processors;
      return driver_.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                 &blocks, on.code.function(kernel), int(kKernelTraits[uint32_t(kernel)].threads),
                 on.code.SharedBytes(kernel, experts)) == CUDA_SUCCESS;
    });
    return known ? uint32_t(blocks) * processors : 0;
  }
  bool CopyAsync(uint32_t device, void* const* to, const void* const* from, const uint64_t* bytes,
                 uint32_t count, void* stream, BackendText* wrong) override {
    return In(device, wrong, [&](const Device&) {
      for (uint32_t i = 0; i < count; ++i)
        if (!driver_.Check(driver_.cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(to[i]),
                                                 reinterpret_cast<CUdeviceptr>(from[i]), bytes[i],
                                                 CUstream(stream)),
                           wrong, "copy %u of %u on device %u", i, count, device))
          return false;
      return true;
    });
  }

  uint32_t NcclVersion(BackendText* wrong) override { return nccl_.Version(nccl_path(), wrong); }
  bool GatherRows(uint32_t device, void* communicator, const uint32_t* row, uint32_t* rows,
                  uint32_t experts, void* stream, BackendText* wrong) override {
    return In(device, wrong, [&](const Device&) {
      return nccl_.GatherRows(nccl_path(), communicator, row, rows, experts, CUstream(stream),
                              wrong);
    });
  }

 private:
  // What `work` returns, in the context of a device in use; false without one.
  template <typename Work>
  bool In(uint32_t device, BackendText* wrong, Work work) {
    const Device* const on = devices_.FindUsed(device, wrong);
    if (!on) return false;
    const InContext inside(driver_, on->context, wrong);
    return inside && work(*on);
  }
  template <typename Made>
  bool Set(void** out, const Made& made, CUresult result, BackendText* wrong, const char* what) {
    if (!driver_.Check(result, wrong, "%s", what)) return false;
    *out = made;
    return true;
  }
  const char* nccl_path() const { return nccl_path_.empty() ? nullptr : nccl_path_.c_str(); }

  Driver driver_;
  Nvml nvml_;
  Nccl nccl_;
  Devices devices_{driver_, nvml_};
  Memory memory_{driver_, devices_};
  std::string nccl_path_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) DeviceBackend* ultraep_open_backend(
    uint32_t backend_version, const BackendOptions* options, BackendText* wrong) {
  static std::mutex mutex;
  static CudaBackend* opened = nullptr;  // never freed: the driver's threads live on as well
  if (backend_version != kBackendVersion)
    return Say(wrong, "this CUDA backend speaks version %u, the caller %u: one release for both",
               kBackendVersion, backend_version),
           nullptr;
  std::lock_guard lock(mutex);
  if (opened) return opened;
  auto backend = std::make_unique<CudaBackend>();
  if (!backend->Open(options ? *options : BackendOptions(), wrong)) return nullptr;
  return opened = backend.release();
}

}  // namespace ultraep

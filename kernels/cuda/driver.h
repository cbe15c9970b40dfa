// The CUDA driver, loaded at run time: its entry points by name and ABI version, and its errors as
// text. Nothing is linked, so a machine without a driver only learns that there is none.
#pragma once

#include <cuda.h>

#include "protocol/device_backend.h"

namespace ultraep {

// name, and the CUDA version whose ABI of it is called: what a later version changes is not used.
#define ULTRAEP_DRIVER_FUNCTIONS(F)           \
  F(cuInit, 2000)                             \
  F(cuDriverGetVersion, 2020)                 \
  F(cuGetErrorName, 6000)                     \
  F(cuGetErrorString, 6000)                   \
  F(cuDeviceGetCount, 2000)                   \
  F(cuDeviceGet, 2000)                        \
  F(cuDeviceGetName, 2000)                    \
  F(cuDeviceGetUuid, 11040)                   \
  F(cuDeviceGetAttribute, 2000)               \
  F(cuDeviceTotalMem, 3020)                   \
  F(cuDeviceCanAccessPeer, 4000)              \
  F(cuDevicePrimaryCtxRetain, 7000)           \
  F(cuDevicePrimaryCtxRelease, 11000)         \
  F(cuCtxGetCurrent, 4000)                    \
  F(cuCtxGetDevice, 2000)                     \
  F(cuCtxPushCurrent, 4000)                   \
  F(cuCtxPopCurrent, 4000)                    \
  F(cuThreadExchangeStreamCaptureMode, 10010) \
  F(cuMemGetInfo, 3020)                       \
  F(cuMemGetAllocationGranularity, 10020)     \
  F(cuMemCreate, 10020)                       \
  F(cuMemRelease, 10020)                      \
  F(cuMemExportToShareableHandle, 10020)      \
  F(cuMemImportFromShareableHandle, 10020)    \
  F(cuMemAddressReserve, 10020)               \
  F(cuMemAddressFree, 10020)                  \
  F(cuMemMap, 10020)                          \
  F(cuMemUnmap, 10020)                        \
  F(cuMemSetAccess, 10020)                    \
  F(cuMemAlloc, 3020)                         \
  F(cuMemFree, 3020)                          \
  F(cuMemHostAlloc, 2020)                     \
  F(cuMemFreeHost, 2000)                      \
  F(cuMemHostGetDevicePointer, 3020)          \
  F(cuMemcpyAsync, 4000)                      \
  F(cuMemsetD8Async, 3020)                    \
  F(cuStreamCreate, 2000)                     \
  F(cuStreamDestroy, 4000)                    \
  F(cuStreamSynchronize, 2000)                \
  F(cuStreamWaitEvent, 3020)                  \
  F(cuStreamIsCapturing, 10000)               \
  F(cuEventCreate, 2000)                      \
  F(cuEventDestroy, 4000)                     \
  F(cuEventRecord, 2000)                      \
  F(cuEventElapsedTime, 2000)                 \
  F(cuModuleLoadData, 2000)                   \
  F(cuModuleUnload, 2000)                     \
  F(cuModuleGetFunction, 2000)                \
  F(cuFuncLoad, 12040)                        \
  F(cuFuncSetAttribute, 9000)                 \
  F(cuLaunchKernel, 4000)                     \
  F(cuOccupancyMaxActiveBlocksPerMultiprocessor, 6050)

// Of the toolkit that this is built with: its code runs on drivers of the same major version.
inline constexpr int kMinimumDriver = CUDA_VERSION / 1000 * 1000;

struct Driver {
#define ULTRAEP_DECLARE(name, version) decltype(&::name) name = nullptr;
  ULTRAEP_DRIVER_FUNCTIONS(ULTRAEP_DECLARE)
#undef ULTRAEP_DECLARE
  int version = 0;

  // path: null: libcuda.so.1, where the loader finds it.
  bool Load(const char* path, BackendText* wrong);
  // False with text unless the call went well; `what` was asked for.
  bool Check(CUresult result, BackendText* wrong, const char* what, ...) const
      __attribute__((format(printf, 4, 5)));
};

// What was found and what is needed, cut to what fits.
void Say(BackendText* wrong, const char* text, ...) __attribute__((format(printf, 2, 3)));

// Makes a context the calling thread's current one, and its own calls harmless to a stream that
// somebody is capturing, while it lives.
class InContext {
 public:
  InContext(const Driver& driver, CUcontext context, BackendText* wrong);
  ~InContext();
  InContext(const InContext&) = delete;
  InContext& operator=(const InContext&) = delete;
  explicit operator bool() const { return entered_; }

 private:
  const Driver& driver_;
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
  bool entered_;
};

}  // namespace ultraep

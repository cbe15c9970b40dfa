// Entry points about devices, contexts and errors.
#include <cstdio>
#include <cstring>

#include "tests/support/fake_cuda/machine.h"

using ultraep::fake_cuda::ContextStack;
using ultraep::fake_cuda::Machine;

namespace {

bool Exists(CUdevice device) { return device >= 0 && device < Machine::Get().options.devices; }

struct Named {
  CUresult result;
  const char *name, *text;
};
#define NAMED(result, text) \
  { result, #result, text }
constexpr Named kErrors[] = {
    NAMED(CUDA_SUCCESS, "no error"),
    NAMED(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    NAMED(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    NAMED(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    NAMED(CUDA_ERROR_NO_DEVICE, "no device"),
    NAMED(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    NAMED(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    NAMED(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image for the device"),
    NAMED(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    NAMED(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    NAMED(CUDA_ERROR_NOT_READY, "device not ready"),
    NAMED(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    NAMED(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not permitted when stream is capturing"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "capture failed earlier"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream of the capture has not joined"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "an event from outside of the capture"),
    NAMED(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "the legacy stream would join the capture"),
};
#undef NAMED

const Named* Find(CUresult result) {
  for (const Named& named : kErrors)
    if (named.result == result) return &named;
  return nullptr;
}

}  // namespace

CUresult cuInit(unsigned int) {
  FAKE_CUDA_CALLED();
  return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  FAKE_CUDA_CALLED();
  *version = Machine::Get().options.version;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult result, const char** name) {
  FAKE_CUDA_CALLED();
  const Named* const found = Find(result);
  *name = found ? found->name : nullptr;
  return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult result, const char** text) {
  FAKE_CUDA_CALLED();
  const Named* const found = Find(result);
  *text = found ? found->text : nullptr;
  return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuDeviceGetCount(int* count) {
  FAKE_CUDA_CALLED();
  *count = Machine::Get().options.devices;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  FAKE_CUDA_CALLED();
  if (!Exists(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  FAKE_CUDA_CALLED();
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, size_t(length), "Fake GPU %d", device);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  FAKE_CUDA_CALLED();
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  std::memcpy(uuid->bytes, "fake GPU uuid..", 15);
  uuid->bytes[15] = char(device);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice device) {
  FAKE_CUDA_CALLED();
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = Machine::Get().options.memory;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  FAKE_CUDA_CALLED();
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  const Machine& machine = Machine::Get();
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return *value = machine.options.architecture / 10, CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return *value = machine.options.architecture % 10, CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return *value = machine.options.processors, CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
      return *value = 3, CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
      return *value = machine.MostSharedBytes(), CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
      return *value = !machine.Lacks("vmm"), CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      return *value = !machine.Lacks("descriptors"), CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED:
      return *value = !machine.Lacks("fabric"), CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuDeviceCanAccessPeer(int* can, CUdevice device, CUdevice peer) {
  FAKE_CUDA_CALLED();
  if (!Exists(device) || !Exists(peer)) return CUDA_ERROR_INVALID_DEVICE;
  *can = device != peer && Machine::Get().IsPeer(device, peer);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  FAKE_CUDA_CALLED();
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  Machine& machine = Machine::Get();
  machine.Count("contexts", 1);
  std::lock_guard lock(machine.mutex);
  *context = &machine.contexts[size_t(device)];
  ++(*context)->holders;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  FAKE_CUDA_CALLED();
  if (!Exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  Machine& machine = Machine::Get();
  {
    std::lock_guard lock(machine.mutex);
    CUctx_st& context = machine.contexts[size_t(device)];
    if (context.holders == 0) return CUDA_ERROR_INVALID_CONTEXT;
    --context.holders;
  }
  machine.Count("contexts", -1);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  FAKE_CUDA_CALLED();
  *context = ContextStack().empty() ? nullptr : ContextStack().back();
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  FAKE_CUDA_CALLED();
  if (!ContextStack().empty()) ContextStack().pop_back();
  if (context) ContextStack().push_back(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
  FAKE_CUDA_CONTEXT(context);
  *device = context->device;
  return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
  FAKE_CUDA_CALLED();
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  ContextStack().push_back(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext* context) {
  FAKE_CUDA_CALLED();
  if (ContextStack().empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (context) *context = ContextStack().back();
  ContextStack().pop_back();
  return CUDA_SUCCESS;
}

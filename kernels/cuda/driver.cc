#include "kernels/cuda/driver.h"

#include <cudaTypedefs.h>
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <type_traits>

namespace ultraep {
namespace {

// What helps, for the errors where something does.
const char* Advice(CUresult result) {
  switch (result) {
    case CUDA_ERROR_NO_DEVICE:
      return "no device is visible: see nvidia-smi and $CUDA_VISIBLE_DEVICES";
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
      return "libcuda.so.1 and the kernel module are of different versions: reboot or reinstall";
    case CUDA_ERROR_SYSTEM_NOT_READY:
      return "the fabric manager is not ready: see systemctl status nvidia-fabricmanager";
    case CUDA_ERROR_DEVICE_UNAVAILABLE:
      return "another process has the device to itself: see its compute mode";
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
      return "the driver is older than the toolkit of this build: update the driver";
    case CUDA_ERROR_NOT_PERMITTED:
      return "of fabric handles: they need an IMEX channel, see /dev/nvidia-caps-imex-channels";
    case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
    case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED:
      return "not while a stream is captured";
    default:
      return nullptr;
  }
}

void Write(BackendText* wrong, const char* text, va_list arguments) {
  if (wrong) std::vsnprintf(wrong->text, sizeof(wrong->text), text, arguments);
}

}  // namespace

void Say(BackendText* wrong, const char* text, ...) {
  va_list arguments;
  va_start(arguments, text);
  Write(wrong, text, arguments);
  va_end(arguments);
}

bool Driver::Load(const char* path, BackendText* wrong) {
  if (!path || !*path) path = "libcuda.so.1";
  void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) return Say(wrong, "no CUDA driver: %s", dlerror()), false;
  const auto find = reinterpret_cast<decltype(&::cuGetProcAddress)>(
      dlsym(library, "cuGetProcAddress_v2"));  // the only name that is looked up as a symbol
  if (!find)
    return Say(wrong, "%s has no cuGetProcAddress_v2: CUDA %d.%d or newer is needed", path,
               kMinimumDriver / 1000, kMinimumDriver % 1000 / 10),
           false;
  const auto resolve = [&](const char* name, int of_version, void** function) {
    CUdriverProcAddressQueryResult status = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    const CUresult result =
        find(name, function, of_version, CU_GET_PROC_ADDRESS_LEGACY_STREAM, &status);
    return result == CUDA_SUCCESS && *function != nullptr;
  };
  // Before all others: of an old driver the version says more than what it lacks.
  if (!resolve("cuDriverGetVersion", 2020, reinterpret_cast<void**>(&cuDriverGetVersion)) ||
      cuDriverGetVersion(&version) != CUDA_SUCCESS)
    return Say(wrong, "%s does not say its version: it lacks cuDriverGetVersion", path), false;
  if (version < kMinimumDriver)
    return Say(wrong,
               "%s is of CUDA %d.%d, %d.%d or newer is needed: update the driver, or build with "
               "an older toolkit",
               path, version / 1000, version % 1000 / 10, kMinimumDriver / 1000,
               kMinimumDriver % 1000 / 10),
           false;
#define ULTRAEP_RESOLVE(name, of_version)                                                         \
  static_assert(std::is_same_v<decltype(this->name), PFN_##name##_v##of_version>, "another ABI"); \
  if (!resolve(#name, of_version, reinterpret_cast<void**>(&this->name)))                         \
    return Say(wrong, "%s (CUDA %d.%d) lacks " #name, path, version / 1000, version % 1000 / 10), \
           false;
  ULTRAEP_DRIVER_FUNCTIONS(ULTRAEP_RESOLVE)
#undef ULTRAEP_RESOLVE
  return Check(cuInit(0), wrong, "starting the CUDA driver %s", path);
}

bool Driver::Check(CUresult result, BackendText* wrong, const char* what, ...) const {
  if (result == CUDA_SUCCESS) return true;
  BackendText asked;
  va_list arguments;
  va_start(arguments, what);
  Write(&asked, what, arguments);
  va_end(arguments);
  const char *name = nullptr, *meaning = nullptr;
  if (cuGetErrorName(result, &name) != CUDA_SUCCESS || !name) name = "unknown error";
  if (cuGetErrorString(result, &meaning) != CUDA_SUCCESS || !meaning) meaning = "no text";
  const char* const advice = Advice(result);
  Say(wrong, "%s: %s (%d: %s)%s%s", asked.text, name, int(result), meaning, advice ? "; " : "",
      advice ? advice : "");
  return false;
}

InContext::InContext(const Driver& driver, CUcontext context, BackendText* wrong)
    : driver_(driver),
      entered_(driver.Check(driver.cuCtxPushCurrent(context), wrong, "entering the context")) {
  if (entered_) driver_.cuThreadExchangeStreamCaptureMode(&mode_);
}

InContext::~InContext() {
  if (!entered_) return;
  driver_.cuThreadExchangeStreamCaptureMode(&mode_);
  CUcontext left = nullptr;
  driver_.cuCtxPopCurrent(&left);
}

}  // namespace ultraep

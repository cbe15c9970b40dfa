// Finds and loads libultraep_cuda.so.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "protocol/device_backend.h"
#include "protocol/version.h"

namespace ultraep {

struct LoadedBackend {
  DeviceBackend* backend = nullptr;  // null: `why` says why there is none
  std::string why;
};

// path: of the backend; empty: beside `beside` (a folder), else wherever the loader finds it. Never
// unloaded: its threads and the driver's live on.
inline LoadedBackend LoadBackend(const std::string& path, const std::string& beside,
                                 const BackendOptions& options) {
  constexpr const char* kName = "libultraep_cuda.so";
  void* library = nullptr;
  std::string why;
  const auto open = [&](const std::string& at) {
    library = dlopen(at.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library) return true;
    const char* text = dlerror();
    if (why.empty()) why = text ? text : at + " cannot be loaded";
    return false;
  };
  const std::string own = beside + "/" + kName;
  if (!path.empty())
    open(path);
  else if (beside.empty() || access(own.c_str(), F_OK) || !open(own))
    open(kName);
  if (!library) return {nullptr, "no CUDA backend: " + why};
  const auto function = reinterpret_cast<OpenBackendFunction>(dlsym(library, kOpenBackendSymbol));
  if (!function) return {nullptr, std::string("not a CUDA backend: no ") + kOpenBackendSymbol};
  BackendText wrong;
  DeviceBackend* const backend = function(kBackendVersion, &options, &wrong);
  if (!backend) return {nullptr, wrong.text};
  if (std::strcmp(backend->build_version(), kBuildVersion) != 0)
    return {nullptr, std::string("the CUDA backend is of version ") + backend->build_version() +
                         ", this is " + kBuildVersion + ": both must come from one release"};
  return {backend, ""};
}

// As the environment of a rank says: `$ULTRAEP_CUDA_BACKEND` is the path, `$ULTRAEP_CUDA_DRIVER`,
// `$ULTRAEP_NVML` and `$ULTRAEP_NCCL` are those of its libraries; unset or empty: the usual ones.
inline LoadedBackend LoadBackendOfEnvironment(const std::string& beside) {
  const auto path = [](const char* name) {
    const char* const set = std::getenv(name);
    return set && *set ? set : nullptr;
  };
  BackendOptions options;
  options.driver = path("ULTRAEP_CUDA_DRIVER");
  options.nvml = path("ULTRAEP_NVML");
  options.nccl = path("ULTRAEP_NCCL");
  const char* const backend = path("ULTRAEP_CUDA_BACKEND");
  return LoadBackend(backend ? backend : "", beside, options);
}

}  // namespace ultraep

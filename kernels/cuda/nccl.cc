#include "kernels/cuda/nccl.h"

#include <dlfcn.h>

#include "kernels/cuda/driver.h"
#if __has_include(<nccl.h>)
#include <nccl.h>
#endif

namespace ultraep {
namespace {

// As in nccl.h, which a build need not have.
constexpr int kSuccess = 0, kInProgress = 7, kUint32 = 3;
#if __has_include(<nccl.h>)
static_assert(ncclSuccess == kSuccess && ncclInProgress == kInProgress && ncclUint32 == kUint32);
#endif

constexpr const char* kName = "libnccl.so.2";

}  // namespace

bool Nccl::Load(const char* path, BackendText* wrong) {
  if (version_ > 0) return true;
  if (!path || !*path) path = kName;
  void* library = dlopen(kName, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (!library) library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) return Say(wrong, "no NCCL: %s", dlerror()), false;
  const auto get_version = reinterpret_cast<GetVersion>(dlsym(library, "ncclGetVersion"));
  all_gather_ = reinterpret_cast<AllGather>(dlsym(library, "ncclAllGather"));
  get_error_string_ = reinterpret_cast<GetErrorString>(dlsym(library, "ncclGetErrorString"));
  for (const auto& [found, name] : {std::pair{get_version != nullptr, "ncclGetVersion"},
                                    {all_gather_ != nullptr, "ncclAllGather"},
                                    {get_error_string_ != nullptr, "ncclGetErrorString"}})
    if (!found) return Say(wrong, "%s has no %s", path, name), false;
  int version = 0;
  const int result = get_version(&version);
  if (result != kSuccess || version <= 0)
    return Say(wrong, "%s does not say its version: %s", path, get_error_string_(result)), false;
  version_ = version;
  return true;
}

uint32_t Nccl::Version(const char* path, BackendText* wrong) {
  std::lock_guard lock(mutex_);
  return Load(path, wrong) ? uint32_t(version_) : 0;
}

bool Nccl::GatherRows(const char* path, void* communicator, const uint32_t* row, uint32_t* rows,
                      uint32_t experts, CUstream stream, BackendText* wrong) {
  if (Version(path, wrong) == 0) return false;
  const int result = all_gather_(row, rows, experts, kUint32, communicator, stream);
  // In progress: of a communicator that does not block; its owner waits for it.
  if (result == kSuccess || result == kInProgress) return true;
  Say(wrong, "ncclAllGather of %u counts: %s (%d)", experts, get_error_string_(result), result);
  return false;
}

}  // namespace ultraep

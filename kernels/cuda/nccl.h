// NCCL, loaded at run time: the one the framework's process has, so that its communicators can be
// used.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "protocol/device_backend.h"

namespace ultraep {

class Nccl {
 public:
  // path: null: libnccl.so.2; both come after a libnccl.so.2 that the process has loaded.
  uint32_t Version(const char* path, BackendText* wrong);
  bool GatherRows(const char* path, void* communicator, const uint32_t* row, uint32_t* rows,
                  uint32_t experts, CUstream stream, BackendText* wrong);

 private:
  bool Load(const char* path, BackendText* wrong);

  using GetVersion = int (*)(int*);
  using AllGather = int (*)(const void*, void*, size_t, int type, void* communicator, CUstream);
  using GetErrorString = const char* (*)(int);

  std::mutex mutex_;
  int version_ = 0;  // 0: not loaded
  AllGather all_gather_ = nullptr;
  GetErrorString get_error_string_ = nullptr;
};

}  // namespace ultraep

// NVML, loaded at run time: which NVLink fabric a device belongs to, and how much memory is free
// without a context. A machine without it has no fabric; that is no error.
#pragma once

#include <cstdint>

#include "protocol/device_backend.h"

namespace ultraep {

class Nvml {
 public:
  // path: null: libnvidia-ml.so.1, where the loader finds it.
  void Load(const char* path);
  // Fills in fabric, cluster and clique of the device with info->uuid.
  void DescribeFabric(DeviceInfo* info) const;
  // 0: unknown.
  uint64_t FreeBytes(const unsigned char (&uuid)[16]) const;

 private:
  // NVML has no header in the toolkit that is built with: what of it is used.
  struct Memory {
    unsigned long long total, free, used;
  };
  struct FabricInfo {
    unsigned int version;
    unsigned char cluster[16];
    int status;  // of the registration, once it is completed; 0: went well
    unsigned int clique;
    unsigned char state;
    unsigned int health;
  };
  using Device = void*;
  using Init = int (*)();
  using GetHandleByUuid = int (*)(const char* uuid, Device*);
  using GetMemoryInfo = int (*)(Device, Memory*);
  using GetFabricInfo = int (*)(Device, FabricInfo*);

  Device Find(const unsigned char (&uuid)[16]) const;

  GetHandleByUuid get_handle_ = nullptr;
  GetMemoryInfo get_memory_ = nullptr;
  GetFabricInfo get_fabric_ = nullptr;  // null: an older NVML
};

}  // namespace ultraep

// Stands in for libnvidia-ml.so.1: the fabric that FAKE_NVML_CLIQUES describes, "0,0,1,1", in the
// state FAKE_NVML_STATE (3: completed) with the status FAKE_NVML_STATUS; without it there is none.
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

int Number(const char* name, int otherwise) {
  const char* const set = std::getenv(name);
  return set ? std::atoi(set) : otherwise;
}

// Of `GPU-66616b65-...-07`: the last two digits are the device.
bool Device(void* handle, int* clique) {
  const char* cliques = std::getenv("FAKE_NVML_CLIQUES");
  for (long i = reinterpret_cast<long>(handle) - 1; cliques && i > 0; --i) {
    cliques = std::strchr(cliques, ',');
    if (cliques) ++cliques;
  }
  *clique = cliques ? std::atoi(cliques) : 0;
  return cliques != nullptr;
}

constexpr int kInvalidArgument = 2, kNotFound = 6, kWrongVersion = 25;

}  // namespace

extern "C" {

int nvmlInit_v2() { return Number("FAKE_NVML_INIT", 0); }

int nvmlDeviceGetHandleByUUID(const char* uuid, void** handle) {
  if (std::strncmp(uuid, "GPU-66616b65-2047-5055-2075-7569642e2e", 38) != 0 ||
      std::strlen(uuid) != 40)
    return kNotFound;
  *handle = reinterpret_cast<void*>(std::strtol(uuid + 38, nullptr, 16) + 1);
  return 0;
}

int nvmlDeviceGetMemoryInfo(void* handle, unsigned long long* total_free_used) {
  if (!handle) return kInvalidArgument;
  total_free_used[1] = static_cast<unsigned long long>(Number("FAKE_NVML_FREE_MIB", 0)) << 20;
  return 0;
}

int nvmlDeviceGetGpuFabricInfoV(void* handle, unsigned char* info) {
  unsigned version = 0;
  std::memcpy(&version, info, 4);
  if (version != (36u | 2u << 24)) return kWrongVersion;
  int clique = 0;
  const bool is_member = Device(handle, &clique);
  const int status = Number("FAKE_NVML_STATUS", 0);
  std::memcpy(
      info + 4,
      Number("FAKE_NVML_CLUSTER", 1) ? "cluster of fakes" : "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
  std::memcpy(info + 20, &status, 4);
  std::memcpy(info + 24, &clique, 4);
  info[28] = is_member ? static_cast<unsigned char>(Number("FAKE_NVML_STATE", 3)) : 0;
  return 0;
}

}  // extern "C"

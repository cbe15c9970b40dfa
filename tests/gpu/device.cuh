// Device memory, streams and a bounded wait for the GPU tests. Plain cudaMalloc memory, never
// managed: kernels that poll each other must not wait for pages.
#pragma once

#include <cuda_runtime.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace ultraep::gpu {

inline void Check(cudaError_t error, const char* what, const char* file, int line) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s:%d: %s: %s\n", file, line, what, cudaGetErrorString(error));
  std::fflush(nullptr);
  _exit(1);  // other kernels may poll for ever: no destructors
}
#define ULTRAEP_CUDA(call) ::ultraep::gpu::Check((call), #call, __FILE__, __LINE__)

// There when it returns: kernels run on streams that do not wait for the default one.
inline void ToDevice(void* to, const void* from, uint64_t bytes) {
  ULTRAEP_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  ULTRAEP_CUDA(cudaStreamSynchronize(nullptr));
}

// `offset` bytes behind an address that is aligned to 256.
class DeviceBytes {
 public:
  explicit DeviceBytes(uint64_t bytes, uint64_t offset = 0) : bytes_(bytes), offset_(offset) {
    ULTRAEP_CUDA(cudaMalloc(&base_, bytes + offset + 1));
    ULTRAEP_CUDA(cudaMemset(base_, 0, bytes + offset + 1));
    ULTRAEP_CUDA(cudaStreamSynchronize(nullptr));
  }
  DeviceBytes(DeviceBytes&& other) noexcept
      : base_(other.base_), bytes_(other.bytes_), offset_(other.offset_) {
    other.base_ = nullptr;
  }
  DeviceBytes& operator=(DeviceBytes&&) = delete;
  ~DeviceBytes() { cudaFree(base_); }

  unsigned char* data() const { return static_cast<unsigned char*>(base_) + offset_; }
  uint64_t size() const { return bytes_; }
  void Upload(const void* from) const { ToDevice(data(), from, bytes_); }
  void Download(void* to) const {
    ULTRAEP_CUDA(cudaMemcpy(to, data(), bytes_, cudaMemcpyDeviceToHost));
  }

 private:
  void* base_ = nullptr;
  uint64_t bytes_, offset_;
};

// Trivially copyable elements; zero at first.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(uint64_t count) : count_(count), bytes_(count * sizeof(T)) {}
  explicit DeviceArray(const std::vector<T>& from) : DeviceArray(from.size()) {
    if (count_) bytes_.Upload(from.data());
  }

  T* data() const { return reinterpret_cast<T*>(bytes_.data()); }
  uint64_t size() const { return count_; }
  std::vector<T> Download() const {
    std::vector<T> all(count_);
    if (count_) bytes_.Download(all.data());
    return all;
  }

 private:
  uint64_t count_;
  DeviceBytes bytes_;
};

// Non-blocking ones, so that nothing else on the device waits for a kernel that polls.
class Streams {
 public:
  explicit Streams(uint32_t count) : streams_(count) {
    for (auto& s : streams_) ULTRAEP_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
  }
  Streams(const Streams&) = delete;
  Streams& operator=(const Streams&) = delete;
  ~Streams() {
    for (auto& s : streams_) cudaStreamDestroy(s);
  }
  cudaStream_t operator[](uint32_t i) const { return streams_[i]; }
  uint32_t size() const { return uint32_t(streams_.size()); }

  // Streams that still have work at the deadline.
  std::vector<uint32_t> BusyAfter(double seconds) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    std::vector<uint32_t> busy;
    for (;;) {
      const bool late = std::chrono::steady_clock::now() > end;
      busy.clear();
      for (uint32_t i = 0; i < size(); ++i) {
        const cudaError_t state = cudaStreamQuery(streams_[i]);
        if (state == cudaErrorNotReady)
          busy.push_back(i);
        else
          ULTRAEP_CUDA(state);
      }
      if (busy.empty() || late) return busy;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

 private:
  std::vector<cudaStream_t> streams_;
};

// What kernels look at while they poll; the host raises it past all their streams.
class StopWord {
 public:
  StopWord() : word_(1), stream_(1) {}
  const std::atomic<uint64_t>* device() const { return word_.data(); }
  void Raise() const {
    ULTRAEP_CUDA(cudaMemsetAsync(word_.data(), 1, sizeof(uint64_t), stream_[0]));
  }

 private:
  DeviceArray<std::atomic<uint64_t>> word_;
  Streams stream_;
};

struct Options {
  bool small = false;       // sizes for compute-sanitizer
  bool one_launch = false;  // all ranks in one cooperative launch: tools serialise launches
  bool bench = false;
  double timeout_s = 20;
};
extern Options options;

// Prints a line of the table and remembers failures.
void Report(bool fine, const std::string& what, const std::string& detail);
inline std::string Text(const char* format, auto... values) {
  char line[512];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

// Until all streams are idle. Else raises `stop`, prints what `describe` says about each stream
// that was busy, and ends the process: memory that kernels still use cannot be freed.
inline void Finish(const Streams& streams, const StopWord& stop,
                   const std::function<std::string(uint32_t)>& describe) {
  const std::vector<uint32_t> busy = streams.BusyAfter(options.timeout_s);
  if (busy.empty()) return;
  stop.Raise();
  const bool stopped = streams.BusyAfter(3).empty();
  std::fprintf(stderr, "HANG: after %.0f s the streams of these ranks were busy:\n",
               options.timeout_s);
  for (const uint32_t i : busy)
    std::fprintf(stderr, "  rank %u: %s\n", i,
                 stopped ? describe(i).c_str() : "does not stop either");
  std::fflush(nullptr);
  _exit(1);
}

// Blocks of this kernel that can run at once on the device.
template <class Kernel>
uint32_t ResidentBlocks(Kernel kernel, uint32_t threads, uint32_t shared_bytes) {
  int device = 0, processors = 0, per_processor = 0;
  ULTRAEP_CUDA(cudaGetDevice(&device));
  ULTRAEP_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  ULTRAEP_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, int(threads),
                                                             shared_bytes));
  return uint32_t(processors * per_processor);
}

// To be called for every kernel and team before it is launched beside others: more shared memory
// than the default needs leave.
template <class Kernel>
void AllowShared(Kernel kernel, uint32_t shared_bytes) {
  ULTRAEP_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)));
}

// Byte i of any expert's shard: its place in the word i / 8. Cheap for host and device alike.
inline __host__ __device__ uint64_t PatternWord(uint64_t seed, uint64_t index) {
  uint64_t z = seed + index * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
inline __host__ __device__ unsigned char PatternByte(uint64_t seed, uint64_t at) {
  return static_cast<unsigned char>(PatternWord(seed, at / 8) >> at % 8 * 8);
}

}  // namespace ultraep::gpu

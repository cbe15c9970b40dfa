// The stand-in's devices as the environment describes them, its contexts, injected failures, and
// what is alive.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

// cuda.h declares these, here is what they are.
struct CUctx_st {
  int device = 0;
  int holders = 0;    // 0: not active
  uint64_t used = 0;  // bytes of device memory, of this process
};
struct CUmod_st {
  CUcontext context;
};
struct CUfunc_st {
  CUcontext context;
  uint32_t kernel;  // of the list
  bool loaded = false;
  int dynamic_shared = 48 * 1024;  // what a launch may ask for
};

namespace ultraep::fake_cuda {

inline constexpr uint64_t kGranularity = 2 << 20;

struct Options {
  Options();

  int devices, architecture, version, processors;
  bool serial;  // a device's streams run one after the other, in the order of issue
  uint64_t memory;
  std::set<std::string> lacks;  // functions, and vmm, descriptors, fabric, code
  std::set<std::pair<int, int>> no_peer;
};

class Machine {
 public:
  static Machine& Get();

  const Options options;
  std::mutex mutex;  // of all below
  std::vector<CUctx_st> contexts;
  std::map<std::string, uint64_t> live;

  CUresult Called(const std::string& function);
  void Fail(const std::string& function, uint32_t nth, CUresult result);
  uint64_t Calls(const std::string& function);
  bool IsPeer(int device, int of) const;
  bool Lacks(const std::string& what) const { return options.lacks.count(what) != 0; }
  // Of a block, as the architecture has it.
  int MostSharedBytes() const { return (options.architecture >= 120 ? 99 : 227) * 1024; }
  void Count(const std::string& kind, int64_t change);
  // Device memory of this process; false: not so much is left.
  bool Take(int device, uint64_t bytes);
  void Return(int device, uint64_t bytes);

 private:
  Machine();

  struct Function {
    uint64_t calls = 0;
    std::map<uint64_t, CUresult> failures;  // by the number of the call
  };
  std::map<std::string, Function> functions_;
  bool initialised_ = false;
};

// The calling thread's contexts, the current one last.
std::vector<CUcontext>& ContextStack();
CUcontext CurrentContext();

}  // namespace ultraep::fake_cuda

// First line of every entry point: counts the call and injects its failure.
#define FAKE_CUDA_CALLED()                                                           \
  if (const CUresult injected = ultraep::fake_cuda::Machine::Get().Called(__func__); \
      injected != CUDA_SUCCESS)                                                      \
  return injected

// Of entry points that need a current context.
#define FAKE_CUDA_CONTEXT(name)                                \
  FAKE_CUDA_CALLED();                                          \
  const CUcontext name = ultraep::fake_cuda::CurrentContext(); \
  if (!name) return CUDA_ERROR_INVALID_CONTEXT

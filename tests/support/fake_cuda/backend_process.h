// Runs a test of the CUDA backend in a process of its own: one process has one backend, and the
// stand-in for the driver reads the environment once.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "protocol/transport/load_backend.h"
#include "tests/support/fake_cuda/fake_cuda.h"

// Else each process that ends while streams' threads run is held up by a second.
extern "C" __attribute__((weak)) const char* __tsan_default_options() {
  return "atexit_sleep_ms=0";
}

namespace ultraep {

using Environment = std::map<std::string, std::string>;

// Its wait status; 0: ended well and no expectation of `test` failed.
inline int StatusOfProcess(const Environment& environment, const std::function<void()>& test) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // also when it hangs and the test is given up
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    test();
    std::fflush(nullptr);
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child ? status : -1;
}

inline void RunInProcess(const Environment& environment, const std::function<void()>& test) {
  const int status = StatusOfProcess(environment, test);
  ASSERT_TRUE(WIFEXITED(status)) << "died of signal " << WTERMSIG(status);
  ASSERT_EQ(WEXITSTATUS(status), 0) << "see above";
}

// A function of the stand-in.
template <typename Function>
Function* FakeCuda(Function*, const char* name) {
  void* const library = dlopen(ULTRAEP_FAKE_CUDA_PATH, RTLD_NOW | RTLD_LOCAL);
  return library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
}
#define ULTRAEP_TEXT(name) #name
#define ULTRAEP_NAME(name) ULTRAEP_TEXT(name)
#define FAKE_CUDA(name) (*::ultraep::FakeCuda(decltype(&::name){}, ULTRAEP_NAME(name)))

// With the stand-in as driver, and no NVML unless it is named.
inline LoadedBackend OpenBackend(BackendOptions options = {}) {
  if (!options.driver) options.driver = ULTRAEP_FAKE_CUDA_PATH;
  if (!options.nvml) options.nvml = "/no/nvml";
  return LoadBackend(ULTRAEP_CUDA_BACKEND_PATH, "", options);
}

// Opens the backend in a process of its own and uses the devices below `used`.
inline void WithBackend(const Environment& environment, uint32_t used,
                        const std::function<void(DeviceBackend&)>& test) {
  RunInProcess(environment, [&] {
    const LoadedBackend loaded = OpenBackend();
    ASSERT_NE(loaded.backend, nullptr) << loaded.why;
    BackendText wrong;
    for (uint32_t device = 0; device < used; ++device)
      ASSERT_TRUE(loaded.backend->Use(device, &wrong)) << wrong.text;
    test(*loaded.backend);
  });
}

inline bool Holds(const BackendText& wrong, const std::string& text) {
  return std::string(wrong.text).find(text) != std::string::npos;
}

}  // namespace ultraep

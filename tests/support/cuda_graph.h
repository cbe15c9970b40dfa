// Captures a stream's work as a CUDA graph and launches it again and again: what a framework does
// with a whole step. Through the driver that the backend uses.
#pragma once

#include <cuda.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace ultraep::test {

class CudaGraph {
 public:
  explicit CudaGraph(uint32_t device) {
    const char* path = std::getenv("ULTRAEP_CUDA_DRIVER");
    library_ = dlopen(path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(library_, nullptr) << dlerror();
    EXPECT_EQ(Call<decltype(&cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain")(
                  &context_, CUdevice(device)),
              CUDA_SUCCESS);
    device_ = CUdevice(device);
  }
  ~CudaGraph() {
    if (run_) Call<decltype(&cuGraphExecDestroy)>("cuGraphExecDestroy")(run_);
    if (graph_) Call<decltype(&cuGraphDestroy)>("cuGraphDestroy")(graph_);
    Call<decltype(&cuDevicePrimaryCtxRelease)>("cuDevicePrimaryCtxRelease_v2")(device_);
  }

  // enqueue() puts its work into `stream`, of this thread. In the strictest mode: anything that may
  // block, of any thread, ends the capture.
  template <class Enqueue>
  CUresult Capture(void* stream, const Enqueue& enqueue) {
    const auto of = static_cast<CUstream>(stream);
    MakeCurrent();
    CUresult result = Call<decltype(&cuStreamBeginCapture)>("cuStreamBeginCapture_v2")(
        of, CU_STREAM_CAPTURE_MODE_GLOBAL);
    if (result != CUDA_SUCCESS) return result;
    enqueue();
    result = Call<decltype(&cuStreamEndCapture)>("cuStreamEndCapture")(of, &graph_);
    if (result != CUDA_SUCCESS) return result;
    return Call<decltype(&cuGraphInstantiateWithFlags)>("cuGraphInstantiateWithFlags")(&run_,
                                                                                       graph_, 0);
  }
  // Any thread.
  CUresult Launch(void* stream) {
    MakeCurrent();
    return Call<decltype(&cuGraphLaunch)>("cuGraphLaunch")(run_, static_cast<CUstream>(stream));
  }
  // The device's context is the calling thread's.
  void MakeCurrent() {
    EXPECT_EQ(Call<decltype(&cuCtxSetCurrent)>("cuCtxSetCurrent")(context_), CUDA_SUCCESS);
  }
  // Of the driver; null when it has none of that name.
  template <class Function>
  Function Call(const char* name) {
    return reinterpret_cast<Function>(dlsym(library_, name));
  }

 private:
  void* library_ = nullptr;
  CUcontext context_ = nullptr;
  CUdevice device_ = 0;
  CUgraph graph_ = nullptr;
  CUgraphExec run_ = nullptr;
};

}  // namespace ultraep::test

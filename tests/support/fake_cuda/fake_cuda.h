// How tests steer the driver that stands in for libcuda.so.1 (README.md): found by dlsym, since the
// backend loads the driver itself.
#pragma once

#include <cuda.h>

#include <cstdint>

extern "C" {

// The nth call of the function from now on, 1 the next one, gives that result and does nothing.
void fake_cuda_fail(const char* function, uint32_t nth, CUresult result);
// Calls of the function so far.
uint64_t fake_cuda_calls(const char* function);
// Things of a kind that are alive: contexts, streams, events, modules, handles, reservations,
// mappings, memory (bytes of cuMemAlloc), pinned (bytes).
uint64_t fake_cuda_live(const char* kind);
// Launches of the kernel run this from now on, in the stream's thread, with a copy of its argument.
void fake_cuda_kernel(const char* name, void (*run)(uint32_t blocks, const void* argument));
// Runs in stream order in the current context, or is captured.
CUresult fake_cuda_enqueue(CUstream stream, void (*run)(void*), void* argument);

}  // extern "C"

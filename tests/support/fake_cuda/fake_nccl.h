// How tests steer the stand-in for libnccl.so.2: communicators of one process's threads.
#pragma once

#include <cstdint>

extern "C" {

// communicators[ranks]: of one group. They live on.
void fake_nccl_make(void** communicators, uint32_t ranks);
// The next ncclAllGather of the communicator gives that ncclResult_t and does nothing.
void fake_nccl_fail(void* communicator, int result);

}  // extern "C"

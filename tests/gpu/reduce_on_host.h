// A reduction by the CPU's executor, which the host compiler builds.
#pragma once

#include "kernels/reduce_gradients.h"

namespace ultraep::gpu {

// All gradients are in `slots`, which are host memory like all that `op` points to.
void ReduceOnHost(const SlotView& slots, const ReduceOperation& op);

}  // namespace ultraep::gpu

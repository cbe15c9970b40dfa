// The kernel that adds replicas' gradients.
#include "kernels/device/launch.cuh"
#include "kernels/device/transfer.h"

namespace ultraep::device {

ULTRAEP_KERNEL(ultraep_reduce, Reduce, ReduceArguments)

}  // namespace ultraep::device

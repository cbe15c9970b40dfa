// The kernels that move weights and gradients, and those that begin and end such operations.
#include "kernels/device/launch.cuh"
#include "kernels/device/operations.h"
#include "kernels/device/transfer.h"

namespace ultraep::device {

ULTRAEP_KERNEL(ultraep_begin_stream, BeginStream, OperationArguments)
ULTRAEP_KERNEL(ultraep_stream, Stream, StreamArguments)
ULTRAEP_KERNEL(ultraep_await_accepted, AwaitAccepted, OperationArguments)
ULTRAEP_KERNEL(ultraep_signal, Signal, SignalArguments)
ULTRAEP_KERNEL(ultraep_arrive, Arrive, OperationArguments)
ULTRAEP_KERNEL(ultraep_release, Release, OperationArguments)
ULTRAEP_KERNEL(ultraep_prepare, Prepare, PrepareArguments)
ULTRAEP_KERNEL(ultraep_publish, Publish, OperationArguments)
ULTRAEP_KERNEL(ultraep_end_reduce, EndReduce, OperationArguments)

}  // namespace ultraep::device

// Any kernel of the list on any team: the dispatch that launching by number is on a device.
#pragma once

#include "kernels/device/await.h"
#include "kernels/device/count.h"
#include "kernels/device/operations.h"
#include "kernels/device/route.h"
#include "kernels/device/transfer.h"

namespace ultraep::test {

// One member of one block. arguments: the kernel's struct.
template <class Team>
void RunKernel(Kernel kernel, Team& team, device::Block block, const void* arguments) {
#define ULTRAEP_CASE(name, type) \
  case Kernel::k##name:          \
    return device::name(team, block, *static_cast<const type*>(arguments))
  switch (kernel) {
    ULTRAEP_CASE(CountIds, CountArguments);
    ULTRAEP_CASE(CountMap, CountArguments);
    ULTRAEP_CASE(SubmitRow, CountArguments);
    ULTRAEP_CASE(Await, AwaitArguments);
    ULTRAEP_CASE(BeginStream, OperationArguments);
    ULTRAEP_CASE(Stream, StreamArguments);
    ULTRAEP_CASE(AwaitAccepted, OperationArguments);
    ULTRAEP_CASE(Signal, SignalArguments);
    ULTRAEP_CASE(Arrive, OperationArguments);
    ULTRAEP_CASE(Release, OperationArguments);
    ULTRAEP_CASE(RouteIds, RouteArguments);
    ULTRAEP_CASE(RouteMap, RouteMapArguments);
    ULTRAEP_CASE(Prepare, PrepareArguments);
    ULTRAEP_CASE(Publish, OperationArguments);
    ULTRAEP_CASE(Reduce, ReduceArguments);
    ULTRAEP_CASE(EndReduce, OperationArguments);
    case Kernel::kStreamBulk:
      return device::Stream(team, block, *static_cast<const StreamArguments*>(arguments));
    case Kernel::kKernels:
      return;
  }
#undef ULTRAEP_CASE
}

}  // namespace ultraep::test

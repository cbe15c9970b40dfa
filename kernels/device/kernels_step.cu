// The kernels of a step's row, verdict and routing.
#include "kernels/device/await.h"
#include "kernels/device/count.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/route.h"

namespace ultraep::device {

ULTRAEP_KERNEL(ultraep_count_ids, CountIds, CountArguments)
ULTRAEP_KERNEL(ultraep_count_map, CountMap, CountArguments)
ULTRAEP_KERNEL(ultraep_submit_row, SubmitRow, CountArguments)
ULTRAEP_KERNEL(ultraep_await, Await, AwaitArguments)
ULTRAEP_KERNEL(ultraep_route_ids, RouteIds, RouteArguments)
ULTRAEP_KERNEL(ultraep_route_map, RouteMap, RouteMapArguments)

}  // namespace ultraep::device

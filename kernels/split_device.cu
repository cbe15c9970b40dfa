// Proves by compiling that protocol/split.h is host and device code: the split that ranks compute
// on a GPU is the same text as the one they compute on a CPU.
#include "protocol/split.h"

namespace ultraep {

// The cells of one replicated expert: how many of each source's tokens go to each instance, and
// where the first token of each source goes. One block; `instances` lies in global memory, cells is
// [ranks][count], first_token is [ranks] physical ids or -1.
__global__ void RouteCells(const uint32_t* column, uint32_t ranks, SplitInstance* instances,
                           uint32_t count, uint64_t* cells, int32_t* first_token) {
  __shared__ uint64_t pool;
  if (threadIdx.x == 0) pool = BuildSplit(column, instances, count);
  __syncthreads();
  for (uint32_t source = threadIdx.x; source < ranks; source += blockDim.x) {
    uint64_t before = 0;
    for (uint32_t r = 0; r < source; ++r) before += column[r];
    const SourceSplit s = SplitForSource(column, source, before, instances, count, pool);
    for (uint32_t j = 0; j < count; ++j)
      cells[uint64_t{source} * count + j] = TokensToInstance(s, j, instances);
    first_token[source] =
        s.own == 0 ? -1 : static_cast<int32_t>(instances[InstanceOf(s, 0, instances)].physical);
  }
}

}  // namespace ultraep

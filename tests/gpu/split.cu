// The split on the device beside that on the host: the same cells and first tokens.
#include <numeric>
#include <vector>

#include "protocol/split.h"
#include "tests/gpu/device.cuh"
#include "tests/gpu/tests.cuh"
#include "tests/support/random.h"

namespace ultraep {

// kernels/split_device.cu
__global__ void RouteCells(const uint32_t* column, uint32_t ranks, SplitInstance* instances,
                           uint32_t count, uint64_t* cells, int32_t* first_token);

namespace gpu {
namespace {

using test::Random;

struct Case {
  std::vector<uint32_t> column;  // [rank]
  std::vector<SplitInstance> instances;
};

// Instances on random ranks; quotas add up to the column's sum.
Case RandomCase(Random* random, uint32_t ranks, uint64_t largest_cell) {
  Case c;
  for (uint32_t r = 0; r < ranks; ++r)
    c.column.push_back(random->Below(4) ? uint32_t(random->Below(largest_cell + 1)) : 0);
  std::vector<uint32_t> order(ranks);
  std::iota(order.begin(), order.end(), 0);
  for (uint32_t r = ranks; r > 1; --r) std::swap(order[r - 1], order[random->Below(r)]);
  const uint64_t count = 1 + random->Below(std::min(ranks, 24u));
  uint64_t left = std::accumulate(c.column.begin(), c.column.end(), uint64_t{0});
  for (uint32_t j = 0; j < count; ++j) {
    SplitInstance instance;
    instance.rank = order[j];
    instance.physical = uint32_t(random->Below(1 << 20));
    instance.quota = j + 1 == count ? left : random->Below(left + 1);
    left -= instance.quota;
    c.instances.push_back(instance);
  }
  return c;
}

// What is wrong, or empty.
std::string Compare(const Case& c) {
  const auto ranks = uint32_t(c.column.size()), count = uint32_t(c.instances.size());
  const DeviceArray<uint32_t> column(c.column);
  const DeviceArray<SplitInstance> device_instances(c.instances);
  const DeviceArray<uint64_t> device_cells(uint64_t{ranks} * count);
  const DeviceArray<int32_t> device_first(ranks);
  RouteCells<<<1, 128>>>(column.data(), ranks, device_instances.data(), count, device_cells.data(),
                         device_first.data());
  ULTRAEP_CUDA(cudaGetLastError());
  ULTRAEP_CUDA(cudaDeviceSynchronize());
  const std::vector<uint64_t> cells = device_cells.Download();
  const std::vector<int32_t> first = device_first.Download();
  std::vector<SplitInstance> instances = c.instances;
  const uint64_t pool = BuildSplit(c.column.data(), instances.data(), count);
  uint64_t before = 0;
  for (uint32_t source = 0; source < ranks; ++source) {
    const SourceSplit s =
        SplitForSource(c.column.data(), source, before, instances.data(), count, pool);
    before += c.column[source];
    for (uint32_t j = 0; j < count; ++j)
      if (cells[uint64_t{source} * count + j] != TokensToInstance(s, j, instances.data()))
        return Text("source %u of %u, instance %u of %u", source, ranks, j, count);
    const int32_t wanted =
        s.own == 0 ? -1 : int32_t(instances[InstanceOf(s, 0, instances.data())].physical);
    if (first[source] != wanted) return Text("source %u of %u: first token", source, ranks);
  }
  return "";
}

}  // namespace

void TestSplit() {
  Random random(3);
  const uint64_t largest[] = {2, 9, 300, 100'000, UINT32_MAX};
  const uint32_t rounds = options.small ? 10 : 300;
  std::string wrong;
  for (uint32_t round = 0; round < rounds && wrong.empty(); ++round)
    wrong = Compare(RandomCase(&random, uint32_t(1 + random.Below(round % 5 ? 16 : 300)),
                               largest[random.Below(5)]));
  Report(wrong.empty(), "split", wrong.empty() ? Text("%u experts", rounds) : wrong);
}

}  // namespace gpu
}  // namespace ultraep

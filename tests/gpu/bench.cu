// How fast one device streams and reduces, beside plain copies of the same bytes in the same run.
// All ranks' slots lie on this device, so what is measured is its memory, not the links.
#include <algorithm>

#include "kernels/bulk_team.cuh"
#include "tests/gpu/device_group.cuh"
#include "tests/gpu/tests.cuh"

namespace ultraep::gpu {
namespace {

constexpr uint32_t kWarmUps = 3, kRuns = 25;
// Four experts per operation: together they exceed the second-level cache.
constexpr uint32_t kExperts = 4;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kShards[] = {24 * kMiB, 12 * kMiB};  // an expert of 37.75 MB

class Event {
 public:
  Event() { ULTRAEP_CUDA(cudaEventCreate(&event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_;
};

struct Times {
  double median = 0, least = 0, most = 0;  // microseconds
};

// Until the host has enqueued what is measured, so that its pace is not.
__global__ void Delay(uint64_t ns) {
  uint64_t begin, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  while (now - begin < ns);
}

// `prepare(i)` is not measured, `run(i)` is; both only enqueue.
template <class Prepare, class Run>
Times Measure(const Streams& streams, const StopWord& stop, Prepare prepare, Run run) {
  const Event begin, end;
  std::vector<double> us;
  for (uint32_t i = 0; i < kWarmUps + kRuns; ++i) {
    prepare(i);
    Delay<<<1, 1, 0, streams[0]>>>(200'000);
    ULTRAEP_CUDA(cudaEventRecord(begin, streams[0]));
    run(i);
    ULTRAEP_CUDA(cudaGetLastError());
    ULTRAEP_CUDA(cudaEventRecord(end, streams[0]));
    Finish(streams, stop, [](uint32_t) { return std::string("in a measurement"); });
    float ms = 0;
    ULTRAEP_CUDA(cudaEventElapsedTime(&ms, begin, end));
    if (i >= kWarmUps) us.push_back(1e3 * ms);
  }
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us.front(), us.back()};
}

// bytes: stored, or moved, in one run.
void Row(const std::string& what, uint64_t bytes, const Times& t, double copy_us) {
  std::printf("%-44s  %8.1f us  (%8.1f .. %8.1f)  %7.0f GB/s", what.c_str(), t.median, t.least,
              t.most, double(bytes) / t.median / 1e3);
  if (copy_us > 0) std::printf("  %5.2f x the copy's time", t.median / copy_us);
  std::printf("\n");
  std::fflush(stdout);
}

// Slots are used again and again, by every kernel; what they show must never look new.
uint64_t NextNumber() {
  static uint64_t number = 0;
  return ++number;
}

// One way to place the experts of rank 0, on as many ranks as it needs.
struct Way {
  std::string name;
  uint32_t ranks;
  std::vector<Replica> plan;
};

std::vector<Way> Ways() {
  Way one{"one to one", 2, {}}, fan{"fan-out of 3", 4, {}}, chain{"chain through a relay", 3, {}};
  for (uint16_t e = 0; e < kExperts; ++e) {
    one.plan.push_back({e, 1, e, -1, 0, 1});
    for (uint16_t r = 1; r <= 3; ++r) fan.plan.push_back({e, r, e, -1, 0, 1});
    chain.plan.push_back({e, 1, e, -1, 0, 1});
    chain.plan.push_back({e, 2, e, int32_t(2 * e), 0, 1});
  }
  return {one, fan, chain};
}

// The plan's copies one after the other, as the driver does them.
double CopyPlan(const DeviceGroup& group, const Way& way, uint64_t bytes) {
  std::vector<const void*> mains(kExperts * 2);
  ULTRAEP_CUDA(cudaMemcpy(mains.data(), group.mains(0, 0), mains.size() * sizeof(void*),
                          cudaMemcpyDeviceToHost));
  const SlotView slots = group.host_view();
  const Times t = Measure(
      group.streams(), group.stop(), [](uint32_t) {},
      [&](uint32_t) {
        for (const Replica& r : way.plan)
          for (uint32_t i = 0; i < 2; ++i) {
            const void* from = mains[r.expert * 2 + i];
            if (r.parent >= 0)
              from = slots.shard(way.plan[r.parent].rank, 0, way.plan[r.parent].slot, i);
            ULTRAEP_CUDA(cudaMemcpyAsync(slots.shard(r.rank, 0, r.slot, i), from, kShards[i],
                                         cudaMemcpyDeviceToDevice, group.streams()[0]));
          }
      });
  Row(way.name + ", cudaMemcpyAsync", bytes, t, 0);
  return t.median;
}

template <class Team>
void StreamRow(const DeviceGroup& group, const Way& way, const std::string& team, uint32_t blocks,
               uint32_t threads, uint64_t bytes, double copy_us) {
  constexpr uint32_t kShared = sizeof(typename Team::Shared);
  AllowShared(GroupStreamKernel<Team>, kShared);
  GroupStream op(group, way.plan, 0, 0, blocks);
  op.senders(0);
  if (ResidentBlocks(GroupStreamKernel<Team>, threads, kShared) < op.sender_count() * blocks)
    return;
  const cudaStream_t stream = group.streams()[0];
  const StreamLaunch* senders = nullptr;
  const Times t = Measure(
      group.streams(), group.stop(),
      [&](uint32_t) {
        const uint64_t number = NextNumber();
        senders = op.senders(number);
        for (uint32_t r = 0; r < way.ranks; ++r)
          PrepareStream<<<1, 128, 0, stream>>>(op.launch(r, number), group.accept(r));
      },
      [&](uint32_t) {
        GroupStreamKernel<Team>
            <<<op.sender_count() * blocks, threads, kShared, stream>>>(senders, blocks);
      });
  Row(Text("%s, %s, %u blocks", way.name.c_str(), team.c_str(), blocks), bytes, t, copy_us);
}

void BenchStreams() {
  for (const Way& way : Ways()) {
    GroupConfig c;
    c.ranks = way.ranks;
    c.experts = way.ranks * kExperts;
    c.slots = kExperts;
    c.slot_sets = 1;
    c.shard_count = 2;
    std::copy(std::begin(kShards), std::end(kShards), c.shard_bytes);
    const DeviceGroup group(c, 1, 0);
    const uint64_t bytes = c.expert_bytes() * way.plan.size();
    std::printf("\nstream: %s, %u experts of %.2f MB, %.0f MB stored; blocks are per sender\n",
                way.name.c_str(), kExperts, double(c.expert_bytes()) / 1e6, double(bytes) / 1e6);
    const double copy = CopyPlan(group, way, bytes);
    for (const uint32_t blocks : {8, 16, 32, 64}) {
      StreamRow<BlockTeam>(group, way, "plain", blocks, 512, bytes, copy);
      StreamRow<BulkTeam<8, 16 * 1024>>(group, way, "bulk 8 x 16 KiB", blocks, 64, bytes, copy);
      StreamRow<BulkTeam<4, 32 * 1024>>(group, way, "bulk 4 x 32 KiB", blocks, 64, bytes, copy);
      StreamRow<BulkTeam<16, 8 * 1024>>(group, way, "bulk 16 x 8 KiB", blocks, 64, bytes, copy);
    }
  }
}

class NarrowTeam : public BlockTeam {
 public:
  using BlockTeam::BlockTeam;
  static constexpr uint64_t kBlock = 4;
};

template <class Team>
void ReduceRow(const DeviceGroup& group, ReduceLaunch launch, const std::string& what,
               uint32_t blocks, uint64_t bytes, double copy_us) {
  const DeviceArray<unsigned long long> counters(3);
  const DeviceArray<ReduceTally> tallies(blocks);
  launch.next = counters.data();
  launch.done = launch.next + 1;
  launch.failures = launch.next + 2;
  launch.tallies = tallies.data();
  const cudaStream_t stream = group.streams()[0];
  const Times t = Measure(
      group.streams(), group.stop(),
      [&](uint32_t) {
        const uint64_t number = launch.op.number = NextNumber();
        ULTRAEP_CUDA(cudaMemsetAsync(counters.data(), 0, 3 * sizeof(number), stream));
        for (uint32_t r = 1; r < group.config().ranks; ++r)
          ToDevice(&group.host_view().gradient_words(r, 0, 0).ready.value, &number, sizeof number);
      },
      [&](uint32_t) {
        ReduceKernel<Team><<<blocks, 512, sizeof(BlockTeam::Shared), stream>>>(launch);
      });
  Row(what + Text(", %u blocks", blocks), bytes, t, copy_us);
}

// What a kernel without tiles, claims and waits needs for the same sums.
template <class Main>
__global__ void __launch_bounds__(512)
    PlainSum(Main* main, const float* a, const float* b, const float* c, uint64_t elements) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < elements / 4; i += step) {
    const float4 x = __ldcg(reinterpret_cast<const float4*>(a) + i);
    const float4 y = __ldcg(reinterpret_cast<const float4*>(b) + i);
    const float4 z = __ldcg(reinterpret_cast<const float4*>(c) + i);
    struct alignas(4 * sizeof(Main)) Four {
      Main at[4];
    };
    Four m = reinterpret_cast<Four*>(main)[i];
    const auto add = [](Main* to, float p, float q, float r) {
      reduce_internal::Store(to, reduce_internal::Load(to) + p + q + r);
    };
    add(m.at, x.x, y.x, z.x);
    add(m.at + 1, x.y, y.y, z.y);
    add(m.at + 2, x.z, y.z, z.z);
    add(m.at + 3, x.w, y.w, z.w);
    reinterpret_cast<Four*>(main)[i] = m;
  }
}

template <class Main>
void PlainRow(const DeviceGroup& group, const DeviceBytes& main, const std::string& what,
              uint32_t blocks, uint64_t elements, uint64_t bytes, double copy_us) {
  const SlotView slots = group.host_view();
  const Times t = Measure(
      group.streams(), group.stop(), [](uint32_t) {},
      [&](uint32_t) {
        PlainSum<<<blocks, 512, 0, group.streams()[0]>>>(
            reinterpret_cast<Main*>(main.data()), slots.gradient(1, 0, 0, 0),
            slots.gradient(2, 0, 0, 0), slots.gradient(3, 0, 0, 0), elements);
      });
  Row(what + Text(", plain loop, %u blocks", blocks), bytes, t, copy_us);
}

void BenchReductions() {
  constexpr uint64_t kElements = 36 * kMiB / 2;  // of the same expert, in bfloat16
  GroupConfig c;
  c.ranks = c.experts = 4;
  c.slots = c.slot_sets = c.shard_count = c.gradient_count = c.training = 1;
  c.shard_bytes[0] = 8;
  c.gradient_bytes[0] = kElements * 4;
  const DeviceGroup group(c, 1, 0);
  const DeviceBytes main(kElements * 4), copy(kElements * 4);
  const DeviceArray<void*> mains(std::vector<void*>{main.data()});
  const DeviceArray<Replica> replicas(
      std::vector<Replica>{{0, 1, 0, -1, 0, 1}, {0, 2, 0, -1, 0, 1}, {0, 3, 0, -1, 0, 1}});
  const DeviceArray<Reduction> reductions(std::vector<Reduction>{{0, 0, 3}});
  ReduceLaunch launch;
  launch.slots = group.view();
  launch.stop = group.stop().device();
  launch.op.reductions = reductions.data();
  launch.op.reduction_count = 1;
  launch.op.replicas = replicas.data();
  launch.op.replica_count = 3;
  launch.op.mains = mains.data();
  for (const GradientType type : {GradientType::kFloat32, GradientType::kBfloat16}) {
    const bool wide = type == GradientType::kFloat32;
    launch.op.type = type;
    const uint64_t bytes = kElements * (3 * 4 + 2 * (wide ? 4 : 2));
    const std::string what = wide ? "3 replicas into float32" : "3 replicas into bfloat16";
    std::printf("\nreduce: %s, %.2f million elements, %.0f MB read and written\n", what.c_str(),
                double(kElements) / 1e6, double(bytes) / 1e6);
    // Copies that read and write as many bytes in all.
    const Times t = Measure(
        group.streams(), group.stop(), [](uint32_t) {},
        [&](uint32_t) {
          for (uint64_t left = bytes / 2; left;) {
            const uint64_t part = std::min(left, main.size());
            ULTRAEP_CUDA(cudaMemcpyAsync(copy.data(), main.data(), part, cudaMemcpyDeviceToDevice,
                                         group.streams()[0]));
            left -= part;
          }
        });
    Row(what + ", cudaMemcpyAsync", bytes, t, 0);
    for (const uint32_t blocks : {8, 16, 32, 64, 132, 264}) {
      ReduceRow<NarrowTeam>(group, launch, what + ", by 4", blocks, bytes, t.median);
      ReduceRow<BlockTeam>(group, launch, what + ", by 8", blocks, bytes, t.median);
      if (wide)
        PlainRow<float>(group, main, what, blocks, kElements, bytes, t.median);
      else
        PlainRow<Bfloat16>(group, main, what, blocks, kElements, bytes, t.median);
    }
  }
}

}  // namespace

void Bench() {
  BenchStreams();
  BenchReductions();
}

}  // namespace ultraep::gpu

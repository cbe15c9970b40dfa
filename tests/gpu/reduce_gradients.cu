// The homes' reductions on the device beside those on the CPU: the same bits.
#include <algorithm>
#include <cstring>

#include "kernels/operation.h"
#include "tests/gpu/device_group.cuh"
#include "tests/gpu/reduce_on_host.h"
#include "tests/gpu/tests.cuh"
#include "tests/support/heap_slots.h"
#include "tests/support/scheduled_plan.h"

namespace ultraep::gpu {
namespace {

using test::HeapSlots;
using test::Random;

constexpr uint32_t kSet = 1;

// Any sign, any mantissa, also denormal; so far from the largest that no sum is infinite: what two
// infinities make is a NaN, whose bits differ between machines.
float AnyFloat(Random* random) {
  const uint64_t bits = random->Next();
  const uint32_t exponent = bits >> 40 & 1 ? uint32_t(bits >> 41) % 241 : 120 + bits % 8;
  const uint32_t word =
      uint32_t(bits >> 32 & 0x80000000u) | exponent << 23 | uint32_t(bits >> 8 & 0x7fffff);
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
// Sums are exact in every order.
float SmallInteger(Random* random) { return float(int(random->Below(2001)) - 1000); }

__global__ void SetReady(SlotView slots, Replica replica, uint64_t number, uint32_t delay_us) {
  __nanosleep(delay_us * 1000);
  __shared__ BlockTeam::Shared shared;
  BlockTeam team(&shared);
  team.Sync();
  team.Signal(&slots.gradient_words(replica.rank, kSet, replica.slot).ready.value, number);
}

// One rank's main gradients, [own expert][part].
template <class Main>
using Mains = std::vector<std::vector<Main>>;

template <class Main>
class Reductions {
 public:
  Reductions(const GroupConfig& config, bool any_order, uint32_t blocks, uint32_t threads,
             uint64_t seed)
      : random_(seed),
        config_(config),
        any_order_(any_order),
        blocks_(Fitting(blocks, threads, config.ranks)),
        threads_(threads),
        plan_(test::Scheduled(config.shape(), 0, test::RandomPieces(config.shape(), &random_))),
        slots_(config),
        group_(config, 0, 0) {
    for (uint32_t r = 0; r < config.ranks; ++r) {
      for (uint32_t e = 0; e < config.shape().experts_per_rank(); ++e)
        for (uint32_t part = 0; part < config.gradient_count; ++part) {
          mains_.emplace_back(slots_.layout().gradient_elements[part]);
          for (Main& m : mains_.back()) reduce_internal::Store(&m, Draw());
          // bfloat16 ones begin anywhere.
          device_mains_.emplace_back(mains_.back().size() * sizeof(Main), sizeof(Main) * (e % 3));
          device_mains_.back().Upload(mains_.back().data());
        }
      lists_.emplace_back(config.shape(), plan_.data(), uint32_t(plan_.size()), r);
    }
  }

  // Two reductions on the same slots and mains; what is wrong, or empty.
  std::string Run() {
    for (const uint64_t count : {1, 2}) {
      const uint64_t number = OperationNumber::Make(count, 7 * count);
      NewGradients();
      ReduceOnDevice(number);
      for (uint32_t r = 0; r < config_.ranks; ++r) ReduceOnHost(r, number);
      SetWords(number);
    }
    for (size_t i = 0; i < mains_.size(); ++i) {
      std::vector<Main> got(mains_[i].size());
      device_mains_[i].Download(got.data());
      for (size_t at = 0; at < got.size(); ++at)
        if (std::memcmp(&got[at], &mains_[i][at], sizeof(Main)))
          return Text("main gradient %zu, element %zu: %a, not %a", i, at,
                      double(reduce_internal::Load(&got[at])),
                      double(reduce_internal::Load(&mains_[i][at])));
    }
    return CompareSlots();
  }
  size_t replicas() const { return plan_.size(); }

 private:
  // Leaves room for the kernels that say what is ready.
  static uint32_t Fitting(uint32_t wanted, uint32_t threads, uint32_t ranks) {
    const uint32_t most =
        ResidentBlocks(ReduceKernel<BlockTeam>, threads, sizeof(BlockTeam::Shared));
    return std::clamp(most / 2 / ranks, 1u, wanted);
  }
  float Draw() { return any_order_ ? SmallInteger(&random_) : AnyFloat(&random_); }

  void NewGradients() {
    for (const Replica& r : plan_)
      for (uint32_t part = 0; part < config_.gradient_count; ++part)
        for (uint64_t i = 0; i < slots_.layout().gradient_elements[part]; ++i)
          slots_.view().gradient(r.rank, kSet, r.slot, part)[i] = Draw();
    for (uint32_t r = 0; r < config_.ranks; ++r) group_.slots(r).Upload(slots_.view().base[r]);
  }

  ReduceOperation OperationOf(uint32_t rank, uint64_t number) {
    ReduceOperation op;
    op.number = number;
    op.set = kSet;
    op.type = sizeof(Main) == 4 ? GradientType::kFloat32 : GradientType::kBfloat16;
    op.any_order = any_order_;
    lists_[rank].Fill(&op);
    return op;
  }
  size_t FirstMain(uint32_t rank) const {
    return size_t{rank} * config_.shape().experts_per_rank() * config_.gradient_count;
  }

  void ReduceOnHost(uint32_t rank, uint64_t number) {
    ReduceOperation op = OperationOf(rank, number);
    std::vector<void*> mains;
    for (size_t i = FirstMain(rank); i < FirstMain(rank + 1); ++i)
      mains.push_back(mains_[i].data());
    op.mains = mains.data();
    gpu::ReduceOnHost(slots_.view(), op);
  }

  // All homes wait before the first gradient is there; those of the highest rank come first.
  void ReduceOnDevice(uint64_t number) {
    const uint32_t ranks = config_.ranks;
    std::vector<DeviceArray<Reduction>> reductions;
    std::vector<DeviceArray<Replica>> replicas;
    std::vector<DeviceArray<void*>> mains;
    const DeviceArray<unsigned long long> counters(3 * ranks);
    const DeviceArray<ReduceTally> tallies(uint64_t{ranks} * blocks_);
    std::vector<ReduceLaunch> launches(ranks);
    for (uint32_t r = 0; r < ranks; ++r) {
      ReduceLaunch& l = launches[r];
      l.op = OperationOf(r, number);
      std::vector<void*> at;
      for (size_t i = FirstMain(r); i < FirstMain(r + 1); ++i)
        at.push_back(device_mains_[i].data());
      l.op.mains = mains.emplace_back(at).data();
      l.op.reductions = reductions
                            .emplace_back(std::vector<Reduction>(
                                l.op.reductions, l.op.reductions + l.op.reduction_count))
                            .data();
      l.op.replicas =
          replicas
              .emplace_back(std::vector<Replica>(l.op.replicas, l.op.replicas + l.op.replica_count))
              .data();
      l.slots = group_.view();
      l.stop = group_.stop().device();
      l.next = counters.data() + 3 * r;
      l.done = l.next + 1;
      l.failures = l.next + 2;
      l.tallies = tallies.data() + uint64_t{r} * blocks_;
    }
    ULTRAEP_CUDA(cudaDeviceSynchronize());
    const Streams ready(1);
    if (options.one_launch) SetAllReady(ready[0], number);
    if (options.one_launch) ULTRAEP_CUDA(cudaDeviceSynchronize());
    for (uint32_t r = 0; r < ranks; ++r)
      ReduceKernel<BlockTeam>
          <<<blocks_, threads_, sizeof(BlockTeam::Shared), group_.streams()[r]>>>(launches[r]);
    ULTRAEP_CUDA(cudaGetLastError());
    if (!options.one_launch) SetAllReady(ready[0], number);
    Finish(group_.streams(), group_.stop(), [&](uint32_t r) {
      const auto all = counters.Download();
      return Text("%llu claims taken, %llu over, %llu blocks stopped in a wait", all[3 * r],
                  all[3 * r + 1], all[3 * r + 2]);
    });
    ULTRAEP_CUDA(cudaDeviceSynchronize());
  }
  void SetAllReady(cudaStream_t stream, uint64_t number) {
    for (uint32_t rank = config_.ranks; rank-- > 0;)
      for (const Replica& r : plan_)
        if (r.rank == rank) SetReady<<<1, 1, 0, stream>>>(group_.view(), r, number, 100);
    ULTRAEP_CUDA(cudaGetLastError());
  }

  // What all must show afterwards, in the host's slots.
  void SetWords(uint64_t number) {
    for (const Replica& r : plan_) {
      GradientWords& words = slots_.view().gradient_words(r.rank, kSet, r.slot);
      words.ready.value = words.taken.value = number;
    }
  }
  std::string CompareSlots() {
    for (uint32_t r = 0; r < config_.ranks; ++r) {
      std::vector<unsigned char> got = slots_.Bytes(r);
      group_.slots(r).Download(got.data());
      if (got != slots_.Bytes(r)) return Text("rank %u: other words or gradients in its slots", r);
    }
    return "";
  }

  Random random_;
  const GroupConfig config_;
  const bool any_order_;
  const uint32_t blocks_, threads_;
  const std::vector<Replica> plan_;
  HeapSlots slots_;  // the host's, and what the device's begin as
  DeviceGroup group_;
  Mains<Main> mains_;
  std::vector<DeviceBytes> device_mains_;
  std::vector<ReduceList> lists_;
};

template <class Main>
void Test(Random* random, uint32_t ranks, bool any_order, uint32_t blocks, uint32_t threads) {
  GroupConfig c;
  c.ranks = ranks;
  c.experts = c.ranks * 2;
  c.slots = c.slot_sets = 2;
  c.training = 1;
  c.shard_count = 1;
  c.shard_bytes[0] = 8;
  c.gradient_count = uint32_t(1 + random->Below(3));
  for (uint32_t i = 0; i < c.gradient_count; ++i)
    c.gradient_bytes[i] =
        4 * (1 + random->Below(random->Below(2) ? (options.small ? 70'000 : 200'000) : 600));
  Reductions<Main> reductions(c, any_order, blocks, threads, random->Next());
  const std::string wrong = reductions.Run();
  Report(
      wrong.empty(),
      Text("reduce into %s%s", sizeof(Main) == 4 ? "float32" : "bfloat16",
           any_order ? ", any order" : ""),
      Text("%u ranks, %zu replicas of %llu bytes, %u blocks of %u", c.ranks, reductions.replicas(),
           (unsigned long long)(c.gradient_bytes[0] + c.gradient_bytes[1] + c.gradient_bytes[2]),
           blocks, threads) +
          (wrong.empty() ? "" : ": " + wrong));
}

}  // namespace

void TestReductions() {
  Random random(8);
  for (uint32_t round = 0; round < (options.small ? 1 : 5); ++round) {
    const uint32_t blocks[] = {2, 1, 7, 16, 4}, threads[] = {512, 64, 96, 256, 128};
    // In a large group some experts have more replicas than addresses are kept for.
    const uint32_t ranks[] = {4, 3, 6, 5, 20};
    for (const bool any_order : {false, true}) {
      Test<float>(&random, ranks[round], any_order, blocks[round], threads[round]);
      Test<Bfloat16>(&random, ranks[round], any_order, blocks[round], threads[round]);
    }
  }
}

}  // namespace ultraep::gpu

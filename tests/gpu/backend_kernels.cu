// The kernels of the CUDA backend on one device: rows and routing of a rank beside the host, and a
// group's whole steps, forward and backward, without the host in between.
#include <cstring>

#include "kernels/count_load.h"
#include "kernels/route_tokens.h"
#include "tests/gpu/backend_rank.cuh"
#include "tests/gpu/tests.cuh"

namespace ultraep::gpu {
namespace {

using test::ImageOf;
using test::MakeImage;
using test::RoutedStep;

GroupConfig Config(uint32_t ranks, uint32_t experts, uint32_t slots) {
  GroupConfig c;
  c.ranks = ranks;
  c.experts = experts;
  c.slots = slots;
  c.window = 8;
  c.slot_sets = 2;
  c.training = 1;
  c.shard_count = 2;
  c.shard_bytes[0] = options.small ? kChunkBytes + 80 : 20 * kChunkBytes + 80;
  c.shard_bytes[1] = 1001;
  c.gradient_count = 2;
  c.gradient_bytes[0] = options.small ? 4'000 : 4'000'000;
  c.gradient_bytes[1] = 52;
  return c;
}

// Count, await and route of one rank; what is wrong, or empty.
std::string CompareStep(const GroupConfig& config, uint32_t max_ids, uint32_t blocks,
                        uint64_t seed) {
  const RoutedStep step = test::RandomStep(config.shape(), max_ids, seed);
  const auto rank = uint32_t(seed % config.ranks);
  const std::vector<int32_t>& ids = step.ids[rank];
  const Streams streams(1);
  const BackendRank device(config, rank, 1, streams[0]);
  const DeviceArray<int32_t> from(ids), to(ids.size());
  device.Verdict(MakeImage(config, step, rank, {}));
  device.Launch(Kernel::kCountIds, blocks,
                CountArguments{device.state(), from.data(), ids.size(), 3, 5});
  device.Launch(Kernel::kAwait, 1, AwaitArguments{device.state(), device.plan(0)});
  device.Launch(Kernel::kRouteIds, blocks,
                RouteArguments{device.state(), device.plan(0), from.data(), to.data(), ids.size()});
  ULTRAEP_CUDA(cudaStreamSynchronize(streams[0]));
  if (const std::string wrong = device.Failure(); !wrong.empty()) return wrong;
  MailboxRow& row = device.mailbox().row(0);
  if (row.stamp.value.load() != 1 ||
      !std::equal(row.row(), row.row() + config.experts, step.row(rank)))
    return "the row differs";
  std::vector<int32_t> wanted(ids.size());
  const std::string refused =
      TokenRouter(step.plan, rank, step.row(rank)).Route(ids.data(), ids.size(), 1, wanted.data());
  if (!refused.empty()) return refused;
  return to.Download() == wanted ? "" : "physical ids differ";
}

float GradientOf(uint32_t step, uint32_t rank, uint32_t slot, uint32_t part, uint64_t i) {
  const uint64_t word = PatternWord(((step * 64ull + rank) * 32 + slot) * 2 + part, i);
  return float(int64_t(word) >> 20) * 1e-9f;
}

// What a backward pass would leave in the rank's slots: the same values as GradientOf.
__global__ void FillGradients(float* at, uint64_t count, uint64_t seed) {
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += uint64_t{gridDim.x} * blockDim.x)
    at[i] += __fmul_rn(float(int64_t(PatternWord(seed, i)) >> 20), 1e-9f);
}

// All ranks' slots, weights and main gradients, and their kernels.
class BackendGroup {
 public:
  BackendGroup(const GroupConfig& config, uint32_t steps, Kernel stream_kernel)
      : config_(config),
        layout_(config),
        steps_(steps),
        stream_kernel_(stream_kernel),
        streams_(config.ranks) {
    for (uint32_t s = 0; s < steps; ++s) {
      plans_.push_back(test::RandomStep(config.shape(), 2'000, 31 + s));
      loads_.emplace_back(plans_[s].load);
    }
    for (uint32_t r = 0; r < config.ranks; ++r) {
      slots_.emplace_back(layout_.slot_board_bytes);
      bases_.push_back(slots_[r].data());
    }
    for (uint32_t e = 0; e < config.experts; ++e) {
      for (uint32_t i = 0; i < config.shard_count; ++i) {
        std::vector<unsigned char> bytes(config.shard_bytes[i]);
        for (uint64_t b = 0; b < bytes.size(); ++b) bytes[b] = PatternByte(e * 8 + i, b);
        weights_.emplace_back(bytes.size());
        weights_.back().Upload(bytes.data());
        mains_.push_back(weights_.back().data());
      }
      for (uint32_t part = 0; part < config.gradient_count; ++part) {
        gradients_.emplace_back(layout_.gradient_elements[part]);
        gradient_mains_.push_back(gradients_.back().data());
      }
    }
    mains_at_ = std::make_unique<DeviceArray<const void*>>(mains_);
    gradient_mains_at_ = std::make_unique<DeviceArray<void*>>(gradient_mains_);
    const uint32_t shared = kKernelTraits[uint32_t(stream_kernel)].shared_bytes;
    AllowShared(EntryOf(stream_kernel), shared);
    const uint32_t resident = ResidentBlocks(
        EntryOf(stream_kernel), kKernelTraits[uint32_t(stream_kernel)].threads, shared);
    blocks_ = std::clamp(resident / 4 / config.ranks, 1u, 8u);
    for (uint32_t r = 0; r < config.ranks; ++r) {
      ranks_.push_back(std::make_unique<BackendRank>(config, r, steps, streams_[r]));
      ranks_[r]->Memory(1, 7, bases_.data());
      for (uint32_t s = 0; s < steps; ++s)
        ranks_[r]->Verdict(MakeImage(config, plans_[s], r, {s, 7, 1, blocks_}));
    }
  }

  std::string Run() {
    std::vector<DeviceBytes> snapshots;
    for (uint32_t i = 0; i < steps_ * config_.ranks; ++i)
      snapshots.emplace_back(layout_.slot_board_bytes);
    for (uint32_t s = 0; s < steps_; ++s)
      for (uint32_t r = 0; r < config_.ranks; ++r)
        LaunchStep(s, r, snapshots[s * config_.ranks + r]);
    const StopWord none;  // the kernels' own bound ends their waits
    Finish(streams_, none, [&](uint32_t r) { return ranks_[r]->Failure(); });
    for (uint32_t r = 0; r < config_.ranks; ++r)
      if (const std::string wrong = ranks_[r]->Failure(); !wrong.empty())
        return Text("rank %u: %s", r, wrong.c_str());
    for (uint32_t s = 0; s < steps_; ++s)
      for (const Replica& r : plans_[s].plan.replicas)
        if (std::string wrong = CompareSlot(s, r, snapshots[s * config_.ranks + r.rank]);
            !wrong.empty())
          return wrong;
    return CompareGradients();
  }

 private:
  void Send(const BackendRank& rank, uint32_t step, uint32_t r) const {
    rank.Operate(Kernel::kBeginStream, step, step % 2);
    const void* const* mains =
        mains_at_->data() + r * config_.experts / config_.ranks * config_.shard_count;
    rank.Launch(stream_kernel_, blocks_, StreamArguments{rank.state(), rank.plan(step), mains});
    rank.Operate(Kernel::kArrive, step);
  }
  // Allocates nothing: that would wait for kernels that wait for other ranks.
  void LaunchStep(uint32_t step, uint32_t r, const DeviceBytes& snapshot) const {
    const BackendRank& rank = *ranks_[r];
    const uint32_t* const row = loads_[step].data() + uint64_t{r} * config_.experts;
    rank.Launch(Kernel::kSubmitRow, 1, CountArguments{rank.state(), row, 0, 0, 0});
    rank.Launch(Kernel::kAwait, 1, AwaitArguments{rank.state(), rank.plan(step)});
    Send(rank, step, r);
    rank.Operate(Kernel::kRelease, step);
    Send(rank, step, r);
    ULTRAEP_CUDA(cudaMemcpyAsync(snapshot.data(), bases_[r], layout_.slot_board_bytes,
                                 cudaMemcpyDeviceToDevice, rank.stream()));
    rank.Launch(Kernel::kPrepare, 4, PrepareArguments{rank.state(), rank.plan(step), 1, 0});
    const SlotView slots{&layout_, bases_.data()};
    for (const Replica& p : plans_[step].plan.replicas)
      for (uint32_t part = 0; p.rank == r && part < config_.gradient_count; ++part)
        FillGradients<<<16, 256, 0, rank.stream()>>>(slots.gradient(r, step % 2, p.slot, part),
                                                     layout_.gradient_elements[part],
                                                     ((step * 64ull + r) * 32 + p.slot) * 2 + part);
    rank.Operate(Kernel::kPublish, step);
    void* const* mains =
        gradient_mains_at_->data() + r * config_.experts / config_.ranks * config_.gradient_count;
    rank.Launch(Kernel::kReduce, blocks_,
                ReduceArguments{rank.state(), rank.plan(step), mains, GradientType::kFloat32, 0});
    rank.Operate(Kernel::kEndReduce, step);
    rank.Operate(Kernel::kRelease, step);
    ULTRAEP_CUDA(cudaGetLastError());
  }
  std::string CompareSlot(uint32_t step, const Replica& r, const DeviceBytes& snapshot) const {
    std::vector<unsigned char> got(layout_.slot_board_bytes);
    snapshot.Download(got.data());
    std::vector<unsigned char*> base(config_.ranks, got.data());
    const SlotView slots{&layout_, base.data()};
    for (uint32_t i = 0; i < config_.shard_count; ++i)
      for (uint64_t b = 0; b < config_.shard_bytes[i]; ++b)
        if (slots.shard(r.rank, step % 2, r.slot, i)[b] != PatternByte(r.expert * 8 + i, b))
          return Text("step %u, rank %u, slot %u, shard %u, byte %llu", step, r.rank, r.slot, i,
                      (unsigned long long)b);
    return "";
  }
  // Step after step, in ascending rank order: the host's bits.
  std::string CompareGradients() const {
    for (uint32_t e = 0; e < config_.experts; ++e)
      for (uint32_t part = 0; part < config_.gradient_count; ++part) {
        std::vector<float> wanted(layout_.gradient_elements[part]), got(wanted.size());
        for (uint32_t s = 0; s < steps_; ++s)
          for (uint32_t rank = 0; rank < config_.ranks; ++rank)
            for (const Replica& r : plans_[s].plan.replicas)
              for (uint64_t i = 0; r.expert == e && r.rank == rank && i < wanted.size(); ++i)
                wanted[i] += GradientOf(s, rank, r.slot, part, i);
        gradients_[e * config_.gradient_count + part].Download().swap(got);
        if (std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)))
          return Text("the gradient of expert %u, part %u differs", e, part);
      }
    return "";
  }

  const GroupConfig config_;
  const SlotLayout layout_;
  const uint32_t steps_;
  const Kernel stream_kernel_;
  const Streams streams_;
  uint32_t blocks_ = 1;
  std::vector<RoutedStep> plans_;             // [step]
  std::vector<DeviceArray<uint32_t>> loads_;  // [step]: [rank][expert]
  std::vector<DeviceBytes> slots_, weights_;
  std::vector<DeviceArray<float>> gradients_;  // [expert][part]
  std::vector<unsigned char*> bases_;
  std::vector<const void*> mains_;
  std::vector<void*> gradient_mains_;
  std::unique_ptr<DeviceArray<const void*>> mains_at_;
  std::unique_ptr<DeviceArray<void*>> gradient_mains_at_;
  std::vector<std::unique_ptr<BackendRank>> ranks_;
};

}  // namespace

void TestBackend() {
  std::string wrong;
  uint64_t seed = 1;
  for (const uint32_t blocks : {1u, 3u, 32u})
    for (const GroupConfig& config : {Config(3, 9, 2), Config(8, 256, 2), Config(4, 64, 32)})
      for (const uint32_t ids : {7u, 5'000u, 65'536u})
        if (wrong.empty()) wrong = CompareStep(config, ids, blocks, seed++);
  Report(wrong.empty(), "backend: count, await, route", wrong);
  // Kernels of several ranks wait for each other: not one launch after the other.
  if (options.one_launch) return;
  for (const Kernel kernel : {Kernel::kStream, Kernel::kStreamBulk}) {
    wrong = BackendGroup(Config(4, 8, 2), 4, kernel).Run();
    Report(wrong.empty(), std::string("backend: steps, ") + kKernelTraits[uint32_t(kernel)].name,
           wrong);
  }
}

}  // namespace ultraep::gpu

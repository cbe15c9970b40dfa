// A whole group on heap memory, one thread a rank, step after step on two slot sets and two
// generations of memory: every weight, flag, id and gradient bit as the host's algorithms give
// them.
#include <gtest/gtest.h>

#include <thread>

#include "kernels/count_load.h"
#include "kernels/route_tokens.h"
#include "tests/kernels/device/device_rank.h"
#include "tests/support/heap_slots.h"
#include "tests/support/random.h"

namespace ultraep::test {
namespace {

GroupConfig Config(uint32_t ranks) {
  GroupConfig c;
  c.ranks = ranks;
  c.experts = ranks * 2;
  c.slots = 2;
  c.window = 4;
  c.slot_sets = 2;
  c.training = 1;
  c.shard_count = 2;
  c.shard_bytes[0] = 2 * kChunkBytes + 1000;
  c.shard_bytes[1] = 77;
  c.gradient_count = 2;
  c.gradient_bytes[0] = 70'001 * 4;
  c.gradient_bytes[1] = 13 * 4;
  return c;
}

float Gradient(uint64_t sequence, const Replica& r, uint32_t part, uint64_t i) {
  const uint64_t mixed = Mix(sequence << 40 ^ uint64_t{r.rank} << 34 ^ uint64_t{r.slot} << 30 ^
                             uint64_t{part} << 28 ^ i);
  return float(int64_t(mixed) >> 20) * 1e-9f;
}

unsigned char Weight(uint32_t expert, uint32_t shard, uint64_t i) {
  return static_cast<unsigned char>(Mix(expert * 8 + shard) + i * 37 + i / 251);
}

// One rank, with the verdicts that its carrier would bring.
class Rank {
 public:
  Rank(const GroupConfig& config, const std::vector<RoutedStep>& steps, uint32_t rank,
       const ExecutorKind& kind, Kernel stream_kernel)
      : config_(config),
        layout_(config),
        steps_(steps),
        rank_(rank),
        kind_(kind),
        stream_kernel_(stream_kernel),
        device_(config, rank, 2) {
    for (uint32_t e = 0; e < config.experts / config.ranks; ++e) {
      const uint32_t expert = rank * (config.experts / config.ranks) + e;
      for (uint32_t s = 0; s < config.shard_count; ++s) {
        weights_.emplace_back(config.shard_bytes[s]);
        for (uint64_t i = 0; i < config.shard_bytes[s]; ++i)
          weights_.back()[i] = Weight(expert, s, i);
      }
      for (uint32_t part = 0; part < config.gradient_count; ++part)
        gradients_.emplace_back(layout_.gradient_elements[part], 0.25f);
    }
    for (auto& w : weights_) mains_.push_back(w.data());
    for (auto& g : gradients_) gradient_mains_.push_back(g.data());
    expected_ = gradients_;
  }
  const DeviceRank& device() const { return device_; }

  // Two steps that overlap: each on its own plan and slot set.
  void Pair(uint64_t first, uint64_t generation, uint32_t memory, const SlotView& slots) {
    slots_ = slots;
    for (uint32_t k = 0; k < 2; ++k) Forward(first + k, k, generation, memory);
    for (uint32_t k = 0; k < 2; ++k) {
      CheckSlots(first + k, k);
      device_.Operate(kind_, Kernel::kRelease, k);
    }
    for (uint32_t k = 2; k-- > 0;) Backward(first + k, k);
    Backward(first, 0);  // of the same plan, once more
  }

 private:
  void Forward(uint64_t sequence, uint32_t k, uint64_t generation, uint32_t memory) {
    const RoutedStep& step = steps_[sequence];
    const std::vector<int32_t>& ids = step.ids[rank_];
    const CountArguments count{&device_.state(), ids.data(), ids.size(), 3, 5};
    device_.Run(kind_, Kernel::kCountIds, &count);
    MailboxRow& row = device_.mailbox().row(sequence);
    EXPECT_EQ(row.stamp.value.load(), sequence + 1);
    EXPECT_TRUE(std::equal(row.row(), row.row() + config_.experts, step.row(rank_)));
    device_.Verdict(MakeImage(config_, step, rank_, {sequence, generation, memory, kind_.teams}));
    device_.Await(kind_, k);
    Send(k);
    std::vector<int32_t> physical(ids.size(), -7), wanted(ids.size());
    const RouteArguments route{&device_.state(), device_.plan(k), ids.data(), physical.data(),
                               ids.size()};
    device_.Run(kind_, Kernel::kRouteIds, &route);
    EXPECT_EQ(TokenRouter(step.plan, rank_, step.row(rank_))
                  .Route(ids.data(), ids.size(), 1, wanted.data()),
              "");
    EXPECT_EQ(physical, wanted);
  }
  void Send(uint32_t k) {
    device_.Operate(kind_, Kernel::kBeginStream, k, k);
    if (stream_kernel_ == Kernel::kSignal)
      SendByCopies(k);
    else {
      const StreamArguments stream{&device_.state(), device_.plan(k), mains_.data()};
      device_.Run(kind_, stream_kernel_, &stream);
    }
    device_.Operate(kind_, Kernel::kArrive, k);
  }
  // As the host does with copy engines: each transfer by itself.
  void SendByCopies(uint32_t k) {
    const PlanImageView image = device::PlanView(device_.state(), device_.plan(k)).image();
    for (uint32_t t = 0; t < image.head().transfer_count; ++t) {
      const uint32_t transfer = image.transfers()[t];
      const OperationArguments await{&device_.state(), device_.plan(k), 0, transfer, 0, 0};
      device_.Run(kind_, Kernel::kAwaitAccepted, &await);
      const Replica& r = image.replicas()[transfer];
      for (uint32_t s = 0; s < config_.shard_count; ++s)
        std::memcpy(slots_.shard(r.rank, k, r.slot, s),
                    r.parent < 0 ? mains_[r.expert % 2 * config_.shard_count + s]
                                 : slots_.shard(rank_, k, image.replicas()[r.parent].slot, s),
                    config_.shard_bytes[s]);
      const SignalArguments signal{&device_.state(), device_.plan(k), t, 1};
      device_.Run(kind_, Kernel::kSignal, &signal);
    }
  }
  void CheckSlots(uint64_t sequence, uint32_t k) {
    for (const Replica& r : steps_[sequence].plan.replicas) {
      if (r.rank != rank_) continue;
      for (uint32_t s = 0; s < config_.shard_count; ++s) {
        const unsigned char* at = slots_.shard(rank_, k, r.slot, s);
        uint64_t wrong = 0;
        for (uint64_t i = 0; i < config_.shard_bytes[s]; ++i)
          wrong += at[i] != Weight(r.expert, s, i);
        EXPECT_EQ(wrong, 0u) << "step " << sequence << " expert " << r.expert << " shard " << s;
      }
      for (uint64_t c = 0; c < layout_.chunks; ++c)
        EXPECT_EQ(slots_.chunk_flags(rank_, k, r.slot)[c].load(), device_.plan(k)->stream.number);
    }
  }
  void Backward(uint64_t sequence, uint32_t k) {
    Send(k);
    CheckSlots(sequence, k);
    const PrepareArguments prepare{&device_.state(), device_.plan(k), 1, 0};
    device_.Run(kind_, Kernel::kPrepare, &prepare);
    for (const Replica& r : steps_[sequence].plan.replicas)
      for (uint32_t part = 0; r.rank == rank_ && part < config_.gradient_count; ++part) {
        float* at = slots_.gradient(rank_, k, r.slot, part);
        uint64_t wrong = 0;
        for (uint64_t i = 0; i < layout_.gradient_elements[part]; ++i) {
          wrong += at[i] != 0.0f;
          at[i] += Gradient(sequence, r, part, i);
        }
        EXPECT_EQ(wrong, 0u) << "step " << sequence << " slot " << r.slot << " part " << part;
      }
    device_.Operate(kind_, Kernel::kPublish, k);
    const ReduceArguments reduce{&device_.state(), device_.plan(k), gradient_mains_.data(),
                                 GradientType::kFloat32, 0};
    device_.Run(kind_, Kernel::kReduce, &reduce);
    device_.Operate(kind_, Kernel::kEndReduce, k);
    device_.Operate(kind_, Kernel::kRelease, k);
    const PlanOperation none;  // nothing of them stays for the next ones
    EXPECT_FALSE(std::memcmp(&device_.plan(k)->stream, &none, sizeof none));
    EXPECT_FALSE(std::memcmp(&device_.plan(k)->reduce, &none, sizeof none));
    CheckGradients(sequence);
  }
  // Ascending rank order, as the host adds.
  void CheckGradients(uint64_t sequence) {
    for (uint32_t e = 0; e < 2; ++e)
      for (uint32_t rank = 0; rank < config_.ranks; ++rank)
        for (const Replica& r : steps_[sequence].plan.replicas)
          for (uint32_t part = 0; part < config_.gradient_count; ++part)
            for (uint64_t i = 0;
                 r.rank == rank && r.expert == rank_ * 2 + e && i < layout_.gradient_elements[part];
                 ++i)
              expected_[e * config_.gradient_count + part][i] += Gradient(sequence, r, part, i);
    for (size_t g = 0; g < gradients_.size(); ++g)
      EXPECT_FALSE(std::memcmp(gradients_[g].data(), expected_[g].data(),
                               expected_[g].size() * sizeof(float)))
          << "step " << sequence << " rank " << rank_ << " part " << g;
  }

  const GroupConfig config_;
  const SlotLayout layout_;
  const std::vector<RoutedStep>& steps_;
  const uint32_t rank_;
  const ExecutorKind kind_;
  const Kernel stream_kernel_;
  DeviceRank device_;
  SlotView slots_;
  std::vector<std::vector<unsigned char>> weights_;       // [own expert][shard]
  std::vector<std::vector<float>> gradients_, expected_;  // [own expert][part]
  std::vector<const void*> mains_;
  std::vector<void*> gradient_mains_;
};

void CheckTotals(const GroupConfig& config, const std::vector<RoutedStep>& steps, uint64_t last,
                 const std::vector<std::unique_ptr<Rank>>& ranks) {
  TransferTotals sum;
  for (const auto& rank : ranks) {
    const MailboxHead& head = rank->device().head();
    sum.Add(head.totals);
    EXPECT_EQ(rank->device().TakeFailure(), DeviceRank::Failure{});
    for (uint32_t m = 0; m < kMemories; ++m)
      EXPECT_EQ(head.begun[m].value.load(), head.ended[m].value.load());
  }
  uint64_t transfers = 0, gradients = 0;  // each pair's first step goes backward twice
  for (uint64_t s = 0; s < last; ++s) {
    const uint64_t replicas = steps[s].plan.replicas.size();
    gradients += (s % 2 ? 1 : 2) * replicas;
    transfers += (s % 2 ? 2 : 3) * replicas;
  }
  const SlotLayout layout(config);
  EXPECT_EQ(sum.transfers, transfers);
  EXPECT_EQ(sum.sent_bytes, transfers * config.expert_bytes());
  EXPECT_EQ(sum.replicas, gradients);
  EXPECT_EQ(sum.reduced_bytes, gradients * layout.elements() * sizeof(float));
  EXPECT_GT(sum.arrivals, 0u);
  EXPECT_GT(sum.sends, 0u);
}

void RunGroup(const ExecutorKind& kind, Kernel stream_kernel, uint64_t seed) {
  SCOPED_TRACE(kind.name() + ", seed " + std::to_string(seed));
  constexpr uint64_t kSteps = 8;
  const GroupConfig config = Config(uint32_t(3 + seed % 3));
  std::vector<RoutedStep> steps;
  for (uint64_t s = 0; s < kSteps; ++s)
    steps.push_back(RandomStep(config.shape(), 500, seed * 100 + s));
  const HeapSlots memories[2] = {HeapSlots(config), HeapSlots(config)};
  std::vector<std::unique_ptr<Rank>> ranks;
  for (uint32_t r = 0; r < config.ranks; ++r) {
    ranks.push_back(std::make_unique<Rank>(config, steps, r, kind, stream_kernel));
    for (uint32_t m = 0; m < 2; ++m)
      ranks[r]->device().Memory(m + 1, 11 + m, memories[m].view().base);
  }
  std::vector<std::thread> threads;
  for (auto& rank : ranks)
    threads.emplace_back([&] {
      for (uint64_t s = 0; s < kSteps; s += 2) {
        const uint32_t m = s >= kSteps / 2;
        rank->Pair(s, 11 + m, m + 1, memories[m].view());
      }
    });
  for (std::thread& t : threads) t.join();
  CheckTotals(config, steps, kSteps, ranks);
}

TEST(DeviceGroup, StepsGiveTheBytesAndBitsOfTheHost) {
  for (uint64_t seed = 0; seed < 2; ++seed)
    for (const ExecutorKind& kind : ExecutorKinds()) RunGroup(kind, Kernel::kStream, seed);
}

TEST(DeviceGroup, CopiesByTheHostBetweenAcceptedAndSignal) {
  for (const ExecutorKind& kind : {ExecutorKind{1, 0}, ExecutorKind{1, 3}})
    RunGroup(kind, Kernel::kSignal, 7);
}

}  // namespace
}  // namespace ultraep::test

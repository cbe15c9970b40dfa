// Whole operations of random plans with relays, every rank a thread with threads of its own for
// streams and reductions: what arrives is byte for byte the home's weights of that very operation,
// whatever their format; main gradients are bit for bit the sums in the operations' and the ranks'
// order.
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "plugin/core/reducer.h"
#include "tests/support/memory_group.h"
#include "tests/support/random.h"
#include "tests/support/scheduled_plan.h"

namespace ultraep {
namespace {

using test::MemoryGroup;
using test::Mix;
using test::Random;

constexpr uint64_t kLong = 20'000'000'000;

// Shards of one expert, in bytes. Opaque: only sizes differ.
std::vector<uint64_t> Bf16(uint64_t hidden, uint64_t inner) {
  return {2 * hidden * inner * 2, hidden * inner * 2};
}
// One float32 scale per 128 x 128 block.
std::vector<uint64_t> Fp8WithScales(uint64_t hidden, uint64_t inner) {
  const uint64_t blocks = ((hidden + 127) / 128) * ((inner + 127) / 128);
  return {2 * hidden * inner, 2 * blocks * 4, hidden * inner, blocks * 4};
}
// Two values per byte, one FP8 scale per 16 values.
std::vector<uint64_t> Fp4WithScales(uint64_t hidden, uint64_t inner) {
  const uint64_t values = hidden * inner;
  return {values, values / 8, (values + 1) / 2, (values + 15) / 16};
}
std::vector<uint64_t> AnySizes(Random* random) {
  std::vector<uint64_t> sizes(1 + random->Below(kMaxShards));
  for (uint64_t& s : sizes) s = 1 + random->Below(random->Below(2) ? 600'000 : 300);
  return sizes;
}

// What the home has in a shard during operation `version`.
void Fill(std::vector<unsigned char>* bytes, uint32_t expert, uint32_t shard, uint64_t version) {
  const uint64_t seed = Mix(version * 1000003 + expert * 97 + shard);
  for (size_t at = 0; at < bytes->size(); at += 8) {
    const uint64_t word = Mix(seed + at);
    std::memcpy(bytes->data() + at, &word, std::min<size_t>(8, bytes->size() - at));
  }
}

// What a replica's backward has at an element during operation `version`.
float GradientAt(const Replica& r, uint32_t part, uint64_t element, uint64_t version) {
  const uint64_t word = Mix(version * 7919 + r.expert * 131 + r.rank * 17 + part + element * 3);
  return float(int64_t(word) >> 30) * 1e-8f;
}

struct Operation {
  RecordedPlan plan;
  bool restore = false, reduce = false;
  uint32_t set = 0;
};

class Rank {
 public:
  Rank(MemoryGroup* group, uint32_t rank)
      : config_(group->layout().config), rank_(rank), generation_(group->Attach(rank)) {
    for (uint32_t e = 0; e < config_.shape().experts_per_rank(); ++e) {
      for (uint32_t i = 0; i < config_.shard_count; ++i)
        mains_.emplace_back(config_.shard_bytes[i]);
      for (uint32_t i = 0; i < config_.gradient_count; ++i)
        gradients_.emplace_back(config_.gradient_bytes[i] / 4, float(rank + e));
    }
    expected_ = gradients_;
  }

  // One operation from start to release; `version` numbers it. Its reduction goes on meanwhile.
  void Run(const Operation& op, uint64_t version) {
    const auto& [plan, restore, reduce, set] = op;
    const uint32_t per_rank = config_.shape().experts_per_rank();
    std::vector<const void*> mains;
    for (uint32_t m = 0; m < mains_.size(); ++m) {
      Fill(&mains_[m], rank_ * per_rank + m / config_.shard_count, m % config_.shard_count,
           version);
      mains.push_back(mains_[m].data());
    }
    std::shared_ptr<Stream> stream;
    Streamer& streamer = *generation_->streamer;
    Result result = streamer.Start(plan, restore, set, mains.data(), &stream);
    ASSERT_TRUE(result.ok()) << result.text;
    if (reduce) {
      result = generation_->reducer->Prepare(stream.get(), true, kLong);
      ASSERT_TRUE(result.ok()) << result.text;
    }
    result = streamer.AwaitArrival(stream.get(), kLong);
    ASSERT_TRUE(result.ok()) << result.text;
    uint64_t sent = 0;
    for (uint32_t i = 0; i < plan.replicas.size(); ++i) {
      sent += SenderOf(plan.shape, plan.replicas.data(), i) == rank_;
      if (plan.replicas[i].rank == rank_) CheckSlot(plan.replicas[i], set, version);
    }
    if (reduce) Reduce(*stream, version);
    result = streamer.Release(stream.get(), kLong);
    ASSERT_TRUE(result.ok()) << result.text;
    EXPECT_EQ(streamer.Tally(*stream).transfers, sent);
    EXPECT_EQ(streamer.Tally(*stream).bytes, sent * config_.expert_bytes());
  }

  void Finish() {
    Join();
    for (size_t i = 0; i < gradients_.size(); ++i)
      EXPECT_EQ(std::memcmp(gradients_[i].data(), expected_[i].data(), gradients_[i].size() * 4), 0)
          << "main gradient " << i << " of rank " << rank_;
  }

 private:
  void Reduce(const Stream& stream, uint64_t version) {
    const SlotView slots = generation_->boards.slot_view();
    for (const Replica& r : stream.replicas)
      for (uint32_t i = 0; r.rank == rank_ && i < config_.gradient_count; ++i)
        for (uint64_t k = 0; k < config_.gradient_bytes[i] / 4; ++k)
          slots.gradient(rank_, stream.set, r.slot, i)[k] += GradientAt(r, i, k, version);
    Join();  // as late as may be: these very main gradients are added to next
    std::vector<void*> mains;
    for (auto& g : gradients_) mains.push_back(g.data());
    const Result result =
        generation_->reducer->Start(stream, mains.data(), GradientType::kFloat32, false, &reduce_);
    ASSERT_TRUE(result.ok()) << result.text;
    const ReduceList own(stream.shape, stream.replicas.data(), uint32_t(stream.replicas.size()),
                         rank_);
    for (const Replica& r : own.replicas())
      for (uint32_t i = 0; i < config_.gradient_count; ++i) {
        const uint32_t e = r.expert % config_.shape().experts_per_rank();
        auto& main = expected_[e * config_.gradient_count + i];
        for (uint64_t k = 0; k < main.size(); ++k) main[k] += GradientAt(r, i, k, version);
      }
  }
  void Join() {
    if (!reduce_) return;
    const Result result = generation_->reducer->Await(reduce_.get(), kLong);
    ASSERT_TRUE(result.ok()) << result.text;
  }
  void CheckSlot(const Replica& r, uint32_t set, uint64_t version) {
    for (uint32_t i = 0; i < config_.shard_count; ++i) {
      std::vector<unsigned char> expected(config_.shard_bytes[i]);
      Fill(&expected, r.expert, i, version);
      const unsigned char* at = generation_->boards.shard(rank_, set, r.slot, i);
      EXPECT_EQ(std::memcmp(at, expected.data(), expected.size()), 0)
          << "expert " << r.expert << " shard " << i << " of " << expected.size()
          << " bytes on rank " << rank_ << ", operation " << version;
    }
  }

  const GroupConfig config_;
  const uint32_t rank_;
  std::shared_ptr<Generation> generation_;
  std::vector<std::vector<unsigned char>> mains_;         // [own expert][shard]
  std::vector<std::vector<float>> gradients_, expected_;  // [own expert][part]
  std::shared_ptr<ultraep::Reduce> reduce_;
};

// Every rank issues the same operations in the same order, in its own time.
void RunGroup(const std::vector<uint64_t>& shards, Random* random, int operations) {
  const auto ranks = uint32_t(2 + random->Below(6));
  GroupConfig config = test::SmallConfig(ranks, ranks * uint32_t(1 + random->Below(3)),
                                         uint32_t(1 + random->Below(3)), 2);
  config.slot_sets = uint32_t(1 + random->Below(2));
  config.shard_count = uint32_t(shards.size());
  for (uint32_t i = 0; i < config.shard_count; ++i) config.shard_bytes[i] = shards[i];
  config.training = random->Below(3) > 0;
  config.gradient_count = config.training * uint32_t(1 + random->Below(3));
  for (uint32_t i = 0; i < config.gradient_count; ++i)
    config.gradient_bytes[i] = 4 * (1 + random->Below(random->Below(2) ? 70'000 : 50));
  ASSERT_EQ(CheckConfig(config), "");
  std::vector<Operation> all;
  for (int i = 0; i < operations; ++i) {
    const bool restore = i > 0 && random->Below(3) == 0;
    Operation next{{},
                   restore,
                   config.training && random->Below(2),
                   uint32_t(random->Below(config.slot_sets))};
    if (restore) {
      next.plan = all[random->Below(all.size())].plan;
    } else {
      next.plan.shape = config.shape();
      next.plan.header.sequence = uint64_t(i);
      next.plan.replicas = test::Scheduled(config.shape(), uint32_t(random->Below(1200)),
                                           test::RandomPieces(config.shape(), random));
    }
    all.push_back(std::move(next));
  }
  MemoryGroup group(config, uint32_t(1 + random->Below(3)));
  std::vector<std::unique_ptr<Rank>> members;
  for (uint32_t r = 0; r < ranks; ++r) members.push_back(std::make_unique<Rank>(&group, r));
  std::vector<std::thread> threads;
  for (auto& member : members)
    threads.emplace_back([&all, &member] {
      for (size_t i = 0; i < all.size() && !testing::Test::HasFatalFailure(); ++i)
        member->Run(all[i], i + 1);
      member->Finish();
    });
  for (auto& t : threads) t.join();
}

TEST(StreamPlans, EveryFormatArrivesByteForByte) {
  Random random(3);
  RunGroup(Bf16(96, 640), &random, 6);
  RunGroup(Fp8WithScales(200, 1000), &random, 6);
  RunGroup(Fp4WithScales(333, 777), &random, 6);
}

TEST(StreamPlans, RandomPlansSizesAndShardCounts) {
  Random random(4);
  for (int round = 0; round < 12; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const std::vector<uint64_t> sizes = AnySizes(&random);
    RunGroup(sizes, &random, 5);
  }
}

}  // namespace
}  // namespace ultraep

// Whole transfers of random plans with relays, every rank a thread with its own stream thread: what
// arrives is byte for byte the home's weights of that very operation, whatever their format.
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "plugin/core/streamer.h"
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

class Rank {
 public:
  Rank(MemoryGroup* group, uint32_t rank)
      : config_(group->layout().config), rank_(rank), generation_(group->Attach(rank)) {
    for (uint32_t e = 0; e < config_.shape().experts_per_rank(); ++e)
      for (uint32_t i = 0; i < config_.shard_count; ++i)
        mains_.emplace_back(config_.shard_bytes[i]);
  }

  // One operation from start to release; `version` numbers it.
  void Run(const RecordedPlan& plan, bool restore, uint32_t set, uint64_t version) {
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
    result = streamer.AwaitArrival(stream.get(), kLong);
    ASSERT_TRUE(result.ok()) << result.text;
    uint64_t sent = 0;
    for (uint32_t i = 0; i < plan.replicas.size(); ++i) {
      sent += SenderOf(plan.shape, plan.replicas.data(), i) == rank_;
      if (plan.replicas[i].rank == rank_) CheckSlot(plan.replicas[i], set, version);
    }
    result = streamer.Release(stream.get(), kLong);
    ASSERT_TRUE(result.ok()) << result.text;
    EXPECT_EQ(streamer.Tally(*stream).transfers, sent);
    EXPECT_EQ(streamer.Tally(*stream).bytes, sent * config_.expert_bytes());
  }

 private:
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
  std::vector<std::vector<unsigned char>> mains_;  // [own expert][shard]
};

// Every rank issues the same operations in the same order, in its own time.
void RunGroup(const std::vector<uint64_t>& shards, Random* random, int operations) {
  const auto ranks = uint32_t(2 + random->Below(6));
  GroupConfig config = test::SmallConfig(ranks, ranks * uint32_t(1 + random->Below(3)),
                                         uint32_t(1 + random->Below(3)), 2);
  config.slot_sets = uint32_t(1 + random->Below(2));
  config.shard_count = uint32_t(shards.size());
  for (uint32_t i = 0; i < config.shard_count; ++i) config.shard_bytes[i] = shards[i];
  ASSERT_EQ(CheckConfig(config), "");
  struct Operation {
    RecordedPlan plan;
    bool restore;
    uint32_t set;
  };
  std::vector<Operation> all;
  for (int i = 0; i < operations; ++i) {
    const bool restore = i > 0 && random->Below(3) == 0;
    Operation next{{}, restore, uint32_t(random->Below(config.slot_sets))};
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
  MemoryGroup group(config);
  std::vector<std::unique_ptr<Rank>> members;
  for (uint32_t r = 0; r < ranks; ++r) members.push_back(std::make_unique<Rank>(&group, r));
  std::vector<std::thread> threads;
  for (auto& member : members)
    threads.emplace_back([&all, &member] {
      for (size_t i = 0; i < all.size() && !testing::Test::HasFatalFailure(); ++i)
        member->Run(all[i].plan, all[i].restore, all[i].set, i + 1);
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

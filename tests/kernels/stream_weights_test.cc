// The senders' algorithm alone, in every kind of team: all ranks of a group at once, every byte of
// every slot compared, also those that must not change.
#include "kernels/stream_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "tests/support/executor_kinds.h"
#include "tests/support/heap_slots.h"
#include "tests/support/random.h"
#include "tests/support/scheduled_plan.h"

namespace ultraep {
namespace {

using test::ExecutorKind;
using test::HeapSlots;
using test::Random;

constexpr uint64_t kNumber = 77;

GroupConfig Config(uint32_t ranks, uint32_t experts, uint32_t slots,
                   const std::vector<uint64_t>& shards) {
  GroupConfig c;
  c.ranks = ranks;
  c.experts = experts;
  c.slots = slots;
  c.slot_sets = 2;
  c.shard_count = uint32_t(shards.size());
  std::copy(shards.begin(), shards.end(), c.shard_bytes);
  return c;
}

// Rank `self`'s part; all of it must outlive the operation.
StreamOperation OperationOf(const PlanShape& shape, const SendQueue& queue,
                            const std::vector<Replica>& plan, uint32_t self, uint32_t set,
                            const void* const* mains) {
  StreamOperation op;
  op.number = kNumber;
  op.set = set;
  op.self = self;
  op.replicas = plan.data();
  op.mains = mains;
  op.experts_per_rank = shape.experts_per_rank();
  queue.Fill(&op);
  return op;
}

// Waits by looking again, and notes whether whoever sleeps would have been woken in time.
class Waits {
 public:
  Waits(const HeapSlots& slots, const std::vector<Replica>& plan, uint32_t self, uint32_t set,
        std::vector<std::atomic<bool>>* woken)
      : slots_(slots), plan_(plan), self_(self), set_(set), woken_(*woken) {}

  bool Accepted(uint32_t) { return true; }
  bool Chunk(uint32_t transfer, uint64_t chunk) {
    const auto* flags = slots_.view().chunk_flags(self_, set_, plan_[transfer].slot);
    while (flags[chunk].load(std::memory_order_acquire) != kNumber) std::this_thread::yield();
    return true;
  }
  void Announce(uint32_t rank) {
    const auto count = uint32_t(plan_.size());
    if (FirstMissingTransfer(slots_.view(), plan_.data(), count, rank, set_, kNumber) == count)
      woken_[rank] = true;
  }

 private:
  const HeapSlots& slots_;
  const std::vector<Replica>& plan_;
  const uint32_t self_, set_;
  std::vector<std::atomic<bool>>& woken_;
};

// One operation of a whole group.
class Transfer {
 public:
  Transfer(const GroupConfig& config, std::vector<Replica> plan, uint32_t set, Random* random)
      : config_(config), plan_(std::move(plan)), set_(set), slots_(config), woken_(config.ranks) {
    for (uint32_t e = 0; e < config.experts; ++e)
      for (uint32_t i = 0; i < config.shard_count; ++i) {
        mains_.emplace_back(config.shard_bytes[i]);
        for (unsigned char& b : mains_.back()) b = static_cast<unsigned char>(random->Next());
      }
  }

  void Run(const ExecutorKind& kind) {
    std::vector<std::thread> ranks;
    for (uint32_t r = 0; r < config_.ranks; ++r) ranks.emplace_back([&, r] { Send(kind, r); });
    for (auto& t : ranks) t.join();
  }

  void Check() const {
    HeapSlots expected(config_);
    uint64_t bytes = 0;
    for (const Replica& r : plan_) {
      for (uint32_t i = 0; i < config_.shard_count; ++i) {
        const auto& main = mains_[r.expert * config_.shard_count + i];
        std::copy(main.begin(), main.end(), expected.view().shard(r.rank, set_, r.slot, i));
        bytes += main.size();
      }
      for (uint64_t c = 0; c < slots_.layout().chunks; ++c)
        expected.view().chunk_flags(r.rank, set_, r.slot)[c] = kNumber;
      EXPECT_TRUE(woken_[r.rank]) << "rank " << r.rank << " would sleep on with all it waits for";
    }
    for (uint32_t r = 0; r < config_.ranks; ++r)
      EXPECT_TRUE(expected.Bytes(r) == slots_.Bytes(r)) << "rank " << r;
    EXPECT_EQ(all_.bytes, bytes);
    EXPECT_EQ(all_.transfers, plan_.size());
    EXPECT_LE(all_.loaded_bytes, all_.bytes);
  }
  const StreamTally& tally() const { return all_; }

 private:
  void Send(const ExecutorKind& kind, uint32_t rank) {
    const PlanShape shape = config_.shape();
    const auto count = uint32_t(plan_.size());
    const SendQueue queue(shape, plan_.data(), count, rank, slots_.layout().chunks, kind.teams);
    std::vector<const void*> mains;
    const size_t own = size_t{shape.experts_per_rank()} * config_.shard_count;
    for (size_t i = 0; i < own; ++i) mains.push_back(mains_[rank * own + i].data());
    const StreamOperation op = OperationOf(shape, queue, plan_, rank, set_, mains.data());
    std::atomic<uint64_t> next{0};
    std::vector<std::atomic<uint64_t>> done(op.send_count);
    test::RunTeams(kind, [&](auto& team) {
      Waits waits(slots_, plan_, rank, set_, &woken_);
      StreamTally tally;
      EXPECT_TRUE(SendWeights(team, waits, slots_.view(), op, &next, done.data(), &tally));
      if (team.rank() != 0) return;
      std::lock_guard lock(mutex_);
      all_.Add(tally);
    });
  }

  const GroupConfig config_;
  const std::vector<Replica> plan_;
  const uint32_t set_;
  HeapSlots slots_;
  std::vector<std::atomic<bool>> woken_;
  std::vector<std::vector<unsigned char>> mains_;  // [expert][shard]
  std::mutex mutex_;
  StreamTally all_;
};

TEST(StreamWeights, EveryExecutorFillsTheSameSlots) {
  Random random(5);
  for (const ExecutorKind& kind : test::ExecutorKinds()) {
    for (int round = 0; round < 6; ++round) {
      SCOPED_TRACE(kind.name() + ", round " + std::to_string(round));
      const auto ranks = uint32_t(2 + random.Below(5));
      std::vector<uint64_t> shards(1 + random.Below(4));
      for (uint64_t& s : shards) s = 1 + random.Below(random.Below(2) ? 900'000 : 500);
      const GroupConfig config = Config(ranks, ranks * uint32_t(1 + random.Below(2)),
                                        uint32_t(1 + random.Below(3)), shards);
      Transfer transfer(config,
                        test::Scheduled(config.shape(), uint32_t(random.Below(1200)),
                                        test::RandomPieces(config.shape(), &random)),
                        uint32_t(random.Below(2)), &random);
      transfer.Run(kind);
      transfer.Check();
    }
  }
}

TEST(StreamWeights, LeavesOfOneSourceAreFedByOneLoad) {
  Random random(6);
  std::vector<Replica> fan;
  for (uint16_t r = 1; r <= 16; ++r) fan.push_back({0, r, 0, -1, 0, 1});
  Transfer transfer(Config(17, 17, 1, {600'001, 3}), fan, 0, &random);
  transfer.Run({1, 0});
  transfer.Check();
  EXPECT_EQ(transfer.tally().bytes, 16 * 600'004u);
  EXPECT_EQ(transfer.tally().loaded_bytes, 2 * 600'004u) << "sixteen stores, eight to a load";
}

TEST(StreamWeights, WhatIsRelayedIsNotHeldBackByALeafAfterIt) {
  // Rank 1 relays to 3. Fed together with the leaf 2, its chunks would come at half the pace.
  const std::vector<Replica> plan = {{0, 1, 0, -1, 0, 1}, {0, 2, 0, -1, 0, 1}, {0, 3, 0, 0, 0, 1}};
  const SendQueue queue({4, 4, 1, 0}, plan.data(), 3, 0, 10, 1);
  ASSERT_EQ(queue.sends().size(), 2u);
  EXPECT_EQ(queue.sends()[0].relayed, 1u);
  EXPECT_EQ(queue.sends()[1].relayed, 0u);
  // The other way round it comes no later than alone.
  const std::vector<Replica> last = {{0, 2, 0, -1, 0, 1}, {0, 1, 0, -1, 0, 1}, {0, 3, 0, 1, 0, 1}};
  EXPECT_EQ(SendQueue({4, 4, 1, 0}, last.data(), 3, 0, 10, 1).sends().size(), 1u);
}

// Copies are ordered before every flag, and a relay that sleeps is not left to the end.
TEST(StreamWeights, DataComeBeforeFlagsAndWakesInBetween) {
  class OrderedTeam : public SerialTeam {
   public:
    void Copy(void* const* to, uint32_t count, const void* from, uint64_t bytes) {
      ordered_ = false;
      SerialTeam::Copy(to, count, from, bytes);
    }
    void OrderCopies() {
      ordered_ = true;
      SerialTeam::OrderCopies();
    }
    void Signal(std::atomic<uint64_t>* word, uint64_t value) {
      EXPECT_TRUE(ordered_);
      SerialTeam::Signal(word, value);
    }

   private:
    bool ordered_ = true;
  };
  struct Counting {
    bool Accepted(uint32_t) { return true; }
    bool Chunk(uint32_t, uint64_t) { return true; }
    void Announce(uint32_t) { ++announced; }
    int announced = 0;
  };
  const GroupConfig config = Config(3, 3, 1, {9 * kChunkBytes});
  const std::vector<unsigned char> main(9 * kChunkBytes, 4);
  for (const bool relayed : {true, false}) {
    HeapSlots slots(config);
    const std::vector<Replica> plan = {{0, 1, 0, -1, 0, 1}, {0, 2, 0, 0, 0, 1}};
    const SendQueue queue(config.shape(), plan.data(), relayed ? 2 : 1, 0, 9, 1);
    const void* mains = main.data();
    const StreamOperation op = OperationOf(config.shape(), queue, plan, 0, 0, &mains);
    std::atomic<uint64_t> next{0}, done{0};
    OrderedTeam team;
    Counting waits;
    StreamTally tally;
    ASSERT_TRUE(SendWeights(team, waits, slots.view(), op, &next, &done, &tally));
    EXPECT_EQ(waits.announced, relayed ? 3 : 1) << "after 4, 8 and all nine chunks";
  }
}

// Copies a chunk only when told.
class HeldTeam : public SerialTeam {
 public:
  explicit HeldTeam(std::atomic<int>* allowed) : allowed_(*allowed) {}
  void Copy(void* const* to, uint32_t count, const void* from, uint64_t bytes) {
    while (allowed_.load() == 0) std::this_thread::yield();
    --allowed_;
    SerialTeam::Copy(to, count, from, bytes);
  }

 private:
  std::atomic<int>& allowed_;
};

TEST(StreamWeights, ARelayForwardsAChunkBeforeTheNextOneCame) {
  const GroupConfig config = Config(3, 3, 1, {4 * kChunkBytes});
  HeapSlots slots(config);
  const std::vector<Replica> chain = {{0, 1, 0, -1, 0, 1}, {0, 2, 0, 0, 0, 1}};
  const std::vector<unsigned char> main(4 * kChunkBytes, 9);
  std::vector<std::atomic<bool>> woken(3);
  std::atomic<int> allowed{0};
  const auto send = [&](auto& team, uint32_t rank) {
    const SendQueue queue(config.shape(), chain.data(), 2, rank, 4, 1);
    const void* mains = main.data();
    const StreamOperation op = OperationOf(config.shape(), queue, chain, rank, 0, &mains);
    std::atomic<uint64_t> next{0}, done{0};
    Waits waits(slots, chain, rank, 0, &woken);
    StreamTally tally;
    EXPECT_TRUE(SendWeights(team, waits, slots.view(), op, &next, &done, &tally));
  };
  std::thread home([&] {
    HeldTeam team(&allowed);
    send(team, 0);
  });
  std::thread relay([&] {
    SerialTeam team;
    send(team, 1);
  });
  for (int chunk = 0; chunk < 4; ++chunk) {
    ++allowed;
    const uint64_t deadline = NowNs() + 20'000'000'000;
    while (slots.view().chunk_flags(2, 0, 0)[chunk].load() != kNumber && NowNs() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(slots.view().chunk_flags(2, 0, 0)[chunk].load(), kNumber) << "chunk " << chunk;
  }
  home.join();
  relay.join();
}

}  // namespace
}  // namespace ultraep

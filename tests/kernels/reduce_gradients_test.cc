// The homes' algorithm alone, in every kind of team: the same bits from all of them, and exactly
// those that plain loops give.
#include "kernels/reduce_gradients.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
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

constexpr uint64_t kNumber = 99;

float AnyFloat(Random* random) { return float(int64_t(random->Next()) >> 20) * 1e-9f; }

class Waits {
 public:
  Waits(const HeapSlots& slots, uint32_t set) : slots_(slots), set_(set) {}

  uint64_t Gradients(const Replica* replicas, uint64_t pending, bool all) {
    for (;;) {
      uint64_t here = 0;
      for (uint64_t i = 0; i < 64; ++i)
        if (pending >> i & 1 && slots_.view()
                                        .gradient_words(replicas[i].rank, set_, replicas[i].slot)
                                        .ready.value.load(std::memory_order_acquire) == kNumber)
          here |= uint64_t{1} << i;
      if (all ? here == pending : here != 0) return here;
      std::this_thread::yield();
    }
  }
  void Announce(uint32_t rank) { announced_ |= uint64_t{1} << (rank % 64); }
  uint64_t announced() const { return announced_; }

 private:
  const HeapSlots& slots_;
  const uint32_t set_;
  uint64_t announced_ = 0;
};

// One reduction on the home rank 0, of a group with random replicas.
class Sum {
 public:
  Sum(uint32_t ranks, const std::vector<uint64_t>& elements, uint64_t seed)
      : random_(seed), config_(Config(ranks, elements)), slots_(config_) {
    plan_ = test::Scheduled(config_.shape(), 0, test::RandomPieces(config_.shape(), &random_));
    for (const Replica& r : plan_)
      for (uint32_t part = 0; part < elements.size(); ++part)
        for (uint64_t i = 0; i < elements[part]; ++i)
          slots_.view().gradient(r.rank, kSet, r.slot, part)[i] = AnyFloat(&random_);
  }

  // Main gradients, [own expert][part]: the same before every run.
  template <class Main>
  std::vector<std::vector<Main>> Mains() const {
    Random random(17);
    std::vector<std::vector<Main>> mains;
    for (uint32_t e = 0; e < config_.shape().experts_per_rank(); ++e)
      for (uint32_t part = 0; part < config_.gradient_count; ++part) {
        mains.emplace_back(slots_.layout().gradient_elements[part]);
        for (Main& m : mains.back()) reduce_internal::Store(&m, AnyFloat(&random));
      }
    return mains;
  }

  template <class Main>
  std::vector<std::vector<Main>> Expected() const {
    std::vector<std::vector<Main>> mains = Mains<Main>();
    for (uint32_t e = 0; e < config_.shape().experts_per_rank(); ++e)
      for (uint32_t part = 0; part < config_.gradient_count; ++part)
        for (uint64_t i = 0; i < slots_.layout().gradient_elements[part]; ++i) {
          Main& main = mains[e * config_.gradient_count + part][i];
          float sum = reduce_internal::Load(&main);
          bool any = false;
          for (uint32_t rank = 1; rank < config_.ranks; ++rank)
            for (const Replica& r : plan_)
              if (r.rank == rank && r.expert == e) {
                sum += slots_.view().gradient(rank, kSet, r.slot, part)[i];
                any = true;
              }
          if (any) reduce_internal::Store(&main, sum);
        }
    return mains;
  }

  template <class Main>
  std::vector<std::vector<Main>> Run(const ExecutorKind& kind, bool any_order) {
    std::vector<std::vector<Main>> mains = Mains<Main>();
    std::vector<void*> addresses;
    for (auto& m : mains) addresses.push_back(m.data());
    const ReduceList list(config_.shape(), plan_.data(), uint32_t(plan_.size()), 0);
    ReduceOperation op;
    op.number = kNumber;
    op.set = kSet;
    op.type = sizeof(Main) == 4 ? GradientType::kFloat32 : GradientType::kBfloat16;
    op.any_order = any_order;
    op.mains = addresses.data();
    list.Fill(&op);
    SetWords(0);
    // The highest rank is ready first.
    std::thread replicas([&] {
      for (uint32_t rank = config_.ranks; rank-- > 0;)
        for (const Replica& r : plan_)
          if (r.rank == rank) {
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            Words(r).ready.value.store(kNumber, std::memory_order_release);
          }
    });
    std::atomic<uint64_t> next{0}, done{0}, announced{0};
    test::RunTeams(kind, [&](auto& team) {
      Waits waits(slots_, kSet);
      ReduceTally tally;
      EXPECT_TRUE(ReduceGradients(team, waits, slots_.view(), op, &next, &done, &tally));
      announced |= waits.announced();
    });
    replicas.join();
    uint64_t homes = 0;
    for (const Replica& r : plan_) {
      const bool own = config_.shape().home(r.expert) == 0;
      EXPECT_EQ(Words(r).taken.value.load(), own ? kNumber : 0);
      if (own) homes |= uint64_t{1} << r.rank;
    }
    EXPECT_EQ(announced.load(), homes);
    return mains;
  }

  uint64_t own_replicas() const {
    return ReduceList(config_.shape(), plan_.data(), uint32_t(plan_.size()), 0).replicas().size();
  }

 private:
  static constexpr uint32_t kSet = 1;

  static GroupConfig Config(uint32_t ranks, const std::vector<uint64_t>& elements) {
    GroupConfig c;
    c.ranks = ranks;
    c.experts = ranks * 2;
    c.slots = 2;
    c.slot_sets = 2;
    c.training = 1;
    c.shard_count = 1;
    c.shard_bytes[0] = 8;
    c.gradient_count = uint32_t(elements.size());
    for (size_t i = 0; i < elements.size(); ++i) c.gradient_bytes[i] = elements[i] * 4;
    return c;
  }
  GradientWords& Words(const Replica& r) const {
    return slots_.view().gradient_words(r.rank, kSet, r.slot);
  }
  void SetWords(uint64_t value) {
    for (const Replica& r : plan_) Words(r).ready.value = Words(r).taken.value = value;
  }

  Random random_;
  const GroupConfig config_;
  HeapSlots slots_;
  std::vector<Replica> plan_;
};

template <class Main>
bool SameBits(const std::vector<std::vector<Main>>& a, const std::vector<std::vector<Main>>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].size() != b[i].size() ||
        std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(Main)))
      return false;
  return a.size() == b.size();
}

TEST(ReduceGradients, EveryExecutorGivesTheBitsOfPlainLoops) {
  Random random(8);
  for (int round = 0; round < 4; ++round) {
    std::vector<uint64_t> elements(1 + random.Below(3));
    for (uint64_t& e : elements) e = 1 + random.Below(random.Below(2) ? 100'000 : 600);
    Sum sum(uint32_t(3 + random.Below(4)), elements, random.Next());
    ASSERT_GT(sum.own_replicas(), 1u);
    for (const ExecutorKind& kind : test::ExecutorKinds()) {
      SCOPED_TRACE(kind.name() + ", round " + std::to_string(round));
      EXPECT_TRUE(SameBits(sum.Run<float>(kind, false), sum.Expected<float>()));
      EXPECT_TRUE(SameBits(sum.Run<Bfloat16>(kind, false), sum.Expected<Bfloat16>()));
    }
  }
}

// Whatever the order: equal up to the rounding of each addition.
TEST(ReduceGradients, InAnyOrderEveryReplicaIsAddedOnce) {
  Sum sum(6, {70'001, 13}, 4);
  const auto expected = sum.Expected<float>();
  for (const ExecutorKind& kind : test::ExecutorKinds()) {
    const auto got = sum.Run<float>(kind, true);
    for (size_t part = 0; part < got.size(); ++part)
      for (size_t i = 0; i < got[part].size(); ++i)
        ASSERT_NEAR(got[part][i], expected[part][i], 1e-2)  // the addends are up to 9,000
            << kind.name() << " part " << part << " element " << i;
  }
}

// More replicas of one expert than a mask has bits, each too small for a bfloat16 at 1 to notice.
TEST(ReduceGradients, ManySmallGradientsAreAddedBeforeTheyAreRounded) {
  constexpr uint32_t kReplicas = 130;
  GroupConfig c;
  c.ranks = c.experts = kReplicas + 1;
  c.slots = c.slot_sets = c.shard_count = c.gradient_count = 1;
  c.gradient_bytes[0] = 40;
  HeapSlots slots(c);
  std::vector<Replica> plan;
  for (uint16_t r = 1; r <= kReplicas; ++r) {
    plan.push_back({0, r, 0, -1, 0, 1});
    for (int i = 0; i < 10; ++i) slots.view().gradient(r, 0, 0, 0)[i] = 1.0f / 16384;
    slots.view().gradient_words(r, 0, 0).ready.value = kNumber;
  }
  const ReduceList list(c.shape(), plan.data(), kReplicas, 0);
  const auto reduce = [&](GradientType type, bool any_order, void* main) {
    ReduceOperation op;
    op.number = kNumber;
    op.type = type;
    op.any_order = any_order;
    op.mains = &main;
    list.Fill(&op);
    std::atomic<uint64_t> next{0}, done{0};
    SerialTeam team;
    Waits waits(slots, 0);
    ReduceTally tally;
    EXPECT_TRUE(ReduceGradients(team, waits, slots.view(), op, &next, &done, &tally));
    EXPECT_EQ(tally.bytes, kReplicas * 40u);
  };
  for (const bool any_order : {false, true}) {
    std::vector<float> exact(10, 1);
    reduce(GradientType::kFloat32, any_order, exact.data());
    EXPECT_EQ(exact, std::vector<float>(10, 1 + kReplicas / 16384.0f));
    std::vector<Bfloat16> rounded(10, ToBfloat16(1));
    reduce(GradientType::kBfloat16, any_order, rounded.data());
    for (const Bfloat16& m : rounded) EXPECT_EQ(ToFloat(m), 1 + 1.0f / 128);
  }
}

TEST(ReduceGradients, AFailedWaitStopsWithoutSayingTaken) {
  struct Never {
    uint64_t Gradients(const Replica*, uint64_t, bool) { return 0; }
    void Announce(uint32_t) { FAIL(); }
  };
  GroupConfig c;
  c.ranks = c.experts = 2;
  c.slots = c.slot_sets = c.shard_count = c.gradient_count = 1;
  c.gradient_bytes[0] = 400;
  HeapSlots slots(c);
  const Replica replica{0, 1, 0, -1, 0, 1};
  const ReduceList list(c.shape(), &replica, 1, 0);
  std::vector<float> main(100, 1);
  void* mains = main.data();
  ReduceOperation op;
  op.number = kNumber;
  op.mains = &mains;
  list.Fill(&op);
  std::atomic<uint64_t> next{0}, done{0};
  SerialTeam team;
  Never waits;
  ReduceTally tally;
  EXPECT_FALSE(ReduceGradients(team, waits, slots.view(), op, &next, &done, &tally));
  EXPECT_EQ(slots.view().gradient_words(1, 0, 0).taken.value.load(), 0u);
  EXPECT_EQ(main, std::vector<float>(100, 1));
}

TEST(Bfloat16, RoundsToNearestWithTiesToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float exact = ToFloat({uint16_t(bits)});
    if (std::isnan(exact)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBfloat16(exact))));
      continue;
    }
    ASSERT_EQ(ToBfloat16(exact).bits, bits);
    if (std::isinf(exact)) continue;
    const auto between = [&](uint32_t low) {
      const uint32_t word = bits << 16 | low;
      float value;
      std::memcpy(&value, &word, 4);
      return ToBfloat16(value).bits;
    };
    ASSERT_EQ(between(0x7fff), bits);
    ASSERT_EQ(between(0x8000), bits + (bits & 1)) << "a tie goes to the even one";
    ASSERT_EQ(between(0x8001), bits + 1);
  }
  EXPECT_TRUE(std::isinf(ToFloat(ToBfloat16(std::numeric_limits<float>::max()))));
}

}  // namespace
}  // namespace ultraep

#include "protocol/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/support/random.h"

namespace ultraep::test {
namespace {

struct Case {
  std::vector<uint32_t> column;
  std::vector<SplitInstance> instances;

  uint32_t count() const { return uint32_t(instances.size()); }
  uint64_t tokens() const { return std::accumulate(column.begin(), column.end(), uint64_t{0}); }
};

// Random ranks for the instances; quotas add up to the column's sum.
Case RandomCase(Random* random, uint64_t largest_cell) {
  Case c;
  const auto ranks = uint32_t(1 + random->Below(9));
  for (uint32_t r = 0; r < ranks; ++r)
    c.column.push_back(random->Below(4) ? uint32_t(random->Below(largest_cell + 1)) : 0);
  std::vector<uint32_t> order(ranks);
  std::iota(order.begin(), order.end(), 0);
  for (uint32_t r = ranks; r > 1; --r) std::swap(order[r - 1], order[random->Below(r)]);
  const uint64_t count = 1 + random->Below(ranks);
  uint64_t left = c.tokens();
  for (uint32_t j = 0; j < count; ++j) {
    SplitInstance instance;
    instance.rank = order[j];
    instance.quota = j + 1 == count ? left : random->Below(left + 1);
    left -= instance.quota;
    c.instances.push_back(instance);
  }
  return c;
}

std::vector<SourceSplit> SplitAll(Case* c) {
  const uint64_t pool = BuildSplit(c->column.data(), c->instances.data(), c->count());
  std::vector<SourceSplit> splits;
  uint64_t before = 0;
  for (uint32_t source = 0; source < c->column.size(); ++source) {
    splits.push_back(
        SplitForSource(c->column.data(), source, before, c->instances.data(), c->count(), pool));
    before += c->column[source];
  }
  return splits;
}

TEST(Split, WorkedExampleOfTheHeader) {
  Case c{{6, 2}, {{0, 0, 4, 0, 0}, {1, 0, 4, 0, 0}}};
  const std::vector<SourceSplit> splits = SplitAll(&c);
  EXPECT_EQ(c.instances[0].local, 4);
  EXPECT_EQ(c.instances[1].local, 2);
  EXPECT_EQ(splits[0].pool, 2);
  EXPECT_EQ(TokensToInstance(splits[0], 0, c.instances.data()), 4);
  EXPECT_EQ(TokensToInstance(splits[0], 1, c.instances.data()), 2);
  EXPECT_EQ(TokensToInstance(splits[1], 0, c.instances.data()), 0);
  EXPECT_EQ(TokensToInstance(splits[1], 1, c.instances.data()), 2);
}

TEST(Split, BothMarginsAreExact) {
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    Random random(seed);
    const uint64_t largest[] = {2, 9, 300, 100000, UINT32_MAX};
    Case c = RandomCase(&random, largest[random.Below(5)]);
    const std::vector<SourceSplit> splits = SplitAll(&c);
    std::vector<uint64_t> taken(c.count(), 0);
    for (uint32_t source = 0; source < splits.size(); ++source) {
      uint64_t sent = 0;
      for (uint32_t j = 0; j < c.count(); ++j) {
        const uint64_t tokens = TokensToInstance(splits[source], j, c.instances.data());
        sent += tokens;
        taken[j] += tokens;
      }
      ASSERT_EQ(sent, c.column[source]) << "seed " << seed << " source " << source;
    }
    for (uint32_t j = 0; j < c.count(); ++j)
      ASSERT_EQ(taken[j], c.instances[j].quota) << "seed " << seed << " instance " << j;
  }
}

TEST(Split, TheInstancesOfSingleTokensAddUpToTheCounts) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Random random(seed);
    Case c = RandomCase(&random, 1 + random.Below(400));
    const std::vector<SourceSplit> splits = SplitAll(&c);
    for (uint32_t source = 0; source < splits.size(); ++source) {
      std::vector<uint64_t> taken(c.count(), 0);
      uint64_t travelling = 0;
      for (uint64_t o = 0; o < c.column[source]; ++o) {
        ASSERT_EQ(TravelBefore(splits[source], o), travelling) << "seed " << seed;
        const uint32_t j = InstanceOf(splits[source], o, c.instances.data());
        ASSERT_LT(j, c.count());
        ++taken[j];
        travelling += !StaysLocal(splits[source], o);
      }
      for (uint32_t j = 0; j < c.count(); ++j)
        ASSERT_EQ(taken[j], TokensToInstance(splits[source], j, c.instances.data()))
            << "seed " << seed << " source " << source << " instance " << j;
    }
  }
}

TEST(Split, AHostServesItsOwnTokensFirst) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    Random random(seed);
    Case c = RandomCase(&random, 1000);
    const std::vector<SourceSplit> splits = SplitAll(&c);
    for (uint32_t j = 0; j < c.count(); ++j) {
      const SplitInstance& i = c.instances[j];
      EXPECT_GE(TokensToInstance(splits[i.rank], j, c.instances.data()),
                std::min<uint64_t>(c.column[i.rank], i.quota))
          << "seed " << seed;
    }
  }
}

TEST(Split, EveryWindowOfTokensIsSpreadOverTheInstances) {
  // 1024 tokens of one source to four equal instances elsewhere: 64 in a row differ by 3 at most.
  Case c{{1024, 0, 0, 0, 0}, {}};
  for (uint32_t j = 1; j <= 4; ++j) c.instances.push_back({j, 0, 256, 0, 0});
  const std::vector<SourceSplit> splits = SplitAll(&c);
  for (uint32_t begin = 0; begin + 64 <= 1024; ++begin) {
    int taken[4] = {};
    for (uint32_t o = begin; o < begin + 64; ++o)
      ++taken[InstanceOf(splits[0], o, c.instances.data())];
    for (const int t : taken) {
      ASSERT_GE(t, 13) << begin;
      ASSERT_LE(t, 19) << begin;
    }
  }
}

TEST(SplitArithmetic, TheStrideIsCoprimeAndAtLeastTheGoldenPart) {
  for (uint64_t n = 0; n < 3000; ++n) {
    const uint64_t stride = SplitStride(n);
    if (n >= 2) {
      EXPECT_EQ(std::gcd(stride, n), 1);
      EXPECT_GE(stride, (618 * n + 500) / 1000);
    }
  }
  EXPECT_EQ(SplitStride(0), 1);
  EXPECT_EQ(SplitStride(1), 1);
  EXPECT_EQ(std::gcd(SplitStride(1ull << 41), 1ull << 41), 1);
}

TEST(SplitArithmetic, CountBelowEqualsCounting) {
  for (uint64_t n = 1; n <= 60; ++n) {
    const uint64_t stride = SplitStride(n);
    for (uint64_t bound = 0; bound <= n; ++bound) {
      uint64_t below = 0;
      for (uint64_t count = 0; count <= n; ++count) {
        ASSERT_EQ(CountBelow(count, stride, n, bound), below) << n << " " << bound << " " << count;
        below += Permuted(count, stride, n) < bound;
      }
    }
  }
}

TEST(SplitArithmetic, FloorSumEqualsSumming) {
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t count = random.Below(40), m = 1 + random.Below(50), a = random.Below(200),
                   b = random.Below(200);
    uint64_t sum = 0;
    for (uint64_t k = 0; k < count; ++k) sum += (a * k + b) / m;
    ASSERT_EQ(uint64_t(FloorSum(count, m, a, b)), sum);
  }
}

}  // namespace
}  // namespace ultraep::test

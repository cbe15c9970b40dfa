// The kernels of one rank's step: rows, verdicts, routing; every kind of team, random shapes.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/count_load.h"
#include "kernels/route_tokens.h"
#include "tests/kernels/device/device_rank.h"
#include "tests/support/heap_slots.h"
#include "tests/support/host_kernels.h"
#include "tests/support/random.h"

namespace ultraep::test {
namespace {

GroupConfig Config(const PlanShape& shape) {
  GroupConfig c;
  c.ranks = shape.ranks;
  c.experts = shape.experts;
  c.slots = shape.slots;
  c.window = 3;
  c.slot_sets = 1;
  c.shard_count = 1;
  c.shard_bytes[0] = 64;
  return c;
}

// Also odd numbers of experts, more experts than a team has members, and very few.
std::vector<PlanShape> Shapes() {
  return {{2, 2, 1, 0}, {3, 9, 2, 0}, {4, 64, 3, 0}, {8, 8, 32, 0}, {5, 35, 1, 0}, {7, 7, 4, 0}};
}

struct Row {
  uint64_t sequence, tokens, faults, fault_index;
  int64_t fault_value;
  std::vector<uint32_t> row;
  bool operator==(const Row&) const = default;
};

Row RowOf(const DeviceRank& device, uint64_t sequence) {
  MailboxRow& row = device.mailbox().row(sequence);
  EXPECT_EQ(row.stamp.value.load(std::memory_order_acquire), sequence + 1);
  EXPECT_EQ(row.layer, 3u);
  EXPECT_EQ(row.microbatch, 5u);
  return {row.sequence,    row.tokens,      row.faults,
          row.fault_index, row.fault_value, {row.row(), row.row() + device.state().experts}};
}

// The verdict of step `sequence`, so that the next one finds room.
void Resolve(const DeviceRank& device, const GroupConfig& config, uint64_t sequence) {
  RoutedStep step;
  step.plan.shape = config.shape();
  step.load.assign(uint64_t{config.ranks} * config.experts, 0);
  device.Verdict(
      MakeImage(config, step, device.state().rank, {sequence, 0, 0, 1, DeviceVerdict::kFallback}));
  device.Await({1, 0});
}

TEST(DeviceCount, IdsMakeTheRowOfTheHost) {
  Random random(1);
  for (const PlanShape& shape : Shapes())
    for (const ExecutorKind& kind : ExecutorKinds()) {
      SCOPED_TRACE(kind.name() + ", experts " + std::to_string(shape.experts));
      const GroupConfig config = Config(shape);
      const DeviceRank device(config, 1);
      for (uint64_t s = 0; s < 6; ++s) {
        // Also from addresses that are not aligned to 16 bytes.
        const uint64_t skip = random.Below(4);
        std::vector<int32_t> all(skip + random.Below(5'000));
        for (int32_t& id : all) id = int32_t(random.Below(shape.experts + 1)) - 1;
        const int32_t* const ids = all.data() + skip;
        const uint64_t n = all.size() - skip;
        Row wanted{s, 0, 0, 0, 0, std::vector<uint32_t>(shape.experts)};
        EXPECT_FALSE(CountLoad(ids, n, shape.experts, wanted.row.data()));
        wanted.tokens = RowTokens(wanted.row.data(), shape.experts);
        const CountArguments a{&device.state(), ids, n, 3, 5};
        device.Run(kind, Kernel::kCountIds, &a);
        EXPECT_EQ(RowOf(device, s), wanted);
        Resolve(device, config, s);
      }
    }
}

TEST(DeviceCount, IdsThatAreNoExpertsAreCountedAndTheFirstIsNamed) {
  const GroupConfig config = Config({4, 64, 3, 0});
  for (const ExecutorKind& kind : ExecutorKinds()) {
    SCOPED_TRACE(kind.name());
    const DeviceRank device(config, 0);
    Random random(2);
    for (uint64_t s = 0; s < 4; ++s) {
      std::vector<int32_t> ids(3'000);
      for (int32_t& id : ids) id = int32_t(random.Below(65)) - 1;
      for (const uint64_t at : {2'999u, 1'700u, 901u}) ids[at] = at % 2 ? 64 : -2;
      ids[2'000] = INT32_MIN;
      const IdFault fault = CheckIds(ids.data(), ids.size(), 64);
      const CountArguments a{&device.state(), ids.data(), ids.size(), 3, 5};
      device.Run(kind, Kernel::kCountIds, &a);
      const Row row = RowOf(device, s);
      EXPECT_EQ(row.faults, 4u);
      EXPECT_EQ(row.fault_index, fault.index);
      EXPECT_EQ(row.fault_value, fault.value);
      std::vector<uint32_t> counts(64);
      for (const int32_t id : ids)
        if (id >= 0 && id < 64) ++counts[id];
      EXPECT_EQ(row.row, counts);
      Resolve(device, config, s);
    }
    // No fault stays behind.
    const int32_t good[] = {1};
    const CountArguments a{&device.state(), good, 1, 3, 5};
    device.Run(kind, Kernel::kCountIds, &a);
    EXPECT_EQ(RowOf(device, 4).faults, 0u);
  }
}

TEST(DeviceCount, MapsAndRowsGiveTheSameAsIds) {
  Random random(3);
  for (const PlanShape& shape : Shapes())
    for (const ExecutorKind& kind : ExecutorKinds()) {
      SCOPED_TRACE(kind.name() + ", experts " + std::to_string(shape.experts));
      const DeviceRank device(Config(shape), 0);
      const uint64_t tokens = random.Below(300), skip = random.Below(2);
      std::vector<uint8_t> all(skip + tokens * shape.experts + 1);
      Row wanted{0, 0, 0, 0, 0, std::vector<uint32_t>(shape.experts)};
      for (uint64_t i = 0; i < tokens * shape.experts; ++i)
        if (random.Below(4) == 0) {
          all[skip + i] = 1;
          ++wanted.row[i % shape.experts];
          ++wanted.tokens;
        }
      const CountArguments a{&device.state(), all.data() + skip, tokens, 3, 5};
      device.Run(kind, Kernel::kCountMap, &a);
      EXPECT_EQ(RowOf(device, 0), wanted);
      const CountArguments row{&device.state(), wanted.row.data(), 0, 3, 5};
      device.Run(kind, Kernel::kSubmitRow, &row);
      wanted.sequence = 1;
      EXPECT_EQ(RowOf(device, 1), wanted);
    }
}

TEST(DeviceCount, AFullWindowIsNotOverwritten) {
  const GroupConfig config = Config({3, 9, 2, 0});
  const DeviceRank device(config, 0);
  std::vector<uint32_t> row(9, 4);
  for (uint32_t i = 0; i < config.window; ++i) device.Submit(row.data());
  EXPECT_EQ(device.state().next, config.window);
  const Row before = RowOf(device, 0);
  row.assign(9, 7);
  const std::vector<int32_t> ids = {1, 1, 99};
  const CountArguments a{&device.state(), ids.data(), ids.size(), 3, 5};
  device.Run({2, 2}, Kernel::kCountIds, &a);
  EXPECT_EQ(RowOf(device, 0), before);
  EXPECT_EQ(device.state().next, config.window);
  EXPECT_EQ(device.TakeFailure(),
            (DeviceRank::Failure{DeviceFailure::kOrder, uint64_t(Kernel::kCountIds), 0, 3}));
  // Nothing of that call is in the next one's row.
  Resolve(device, config, 0);
  device.Submit(row.data());
  EXPECT_EQ(RowOf(device, 3), (Row{3, 63, 0, 0, 0, row}));
}

TEST(DeviceAwait, TheImageIsCopiedAndItsMemoryIsSetUpOnce) {
  const GroupConfig config = Config({4, 64, 3, 0});
  for (const ExecutorKind& kind : ExecutorKinds()) {
    SCOPED_TRACE(kind.name());
    const DeviceRank device(config, 2);
    const HeapSlots slots(config);
    for (uint64_t s = 0; s < 4; ++s) {
      const RoutedStep step = RandomStep(config.shape(), 200, s);
      device.Submit(step.row(2));
      const uint64_t generation = s < 2 ? 21 : 22;
      if (s % 2 == 0) device.Memory(uint32_t(s), generation, slots.view().base);
      const auto image = MakeImage(config, step, 2, {s, generation, uint32_t(s / 2 * 2), 1});
      device.plan()->streamed = device.plan()->routed = 9;
      device.Verdict(image);
      device.Await(kind);
      DeviceMemory& memory = device.state().memories[s / 2 * 2];
      EXPECT_FALSE(std::memcmp(&device.image(), image.data(), image.size()));
      EXPECT_EQ(device.state().memory, s / 2 * 2);
      EXPECT_EQ(device.state().resolved, s + 1);
      EXPECT_EQ(memory.generation, generation);
      EXPECT_TRUE(std::equal(memory.bases, memory.bases + 4, slots.view().base));
      EXPECT_EQ(device.plan()->streamed + device.plan()->routed, 0u);
      // What the first verdict of a generation resets stays with the second.
      EXPECT_EQ(memory.next_forward, s % 2 ? 77u : 0u);
      EXPECT_EQ(memory.uses[1].number, s % 2 ? 78u : 0u);
      memory.next_forward = 77;
      memory.uses[1].number = 78;
    }
    EXPECT_EQ(device.TakeFailure(), DeviceRank::Failure{});
  }
}

// A rank with the image of its part of the step.
DeviceRank Routed(const GroupConfig& config, const RoutedStep& step, uint32_t rank,
                  DeviceVerdict verdict = DeviceVerdict::kPlan) {
  DeviceRank device(config, rank);
  device.Submit(step.row(rank));
  device.Verdict(MakeImage(config, step, rank, {0, 0, 0, 1, verdict}));
  device.Await({1, 0});
  return device;
}

TEST(DeviceRoute, IdsGoWhereTheRouterOfTheHostSendsThem) {
  Random random(5);
  for (const PlanShape& shape : Shapes())
    for (uint32_t round = 0; round < 6; ++round) {
      const RoutedStep step = RandomStep(shape, round ? 3'000 : 5, random.Next());
      const auto rank = uint32_t(random.Below(shape.ranks));
      const std::vector<int32_t>& ids = step.ids[rank];
      std::vector<int32_t> wanted(ids.size());
      const TokenRouter router(step.plan, rank, step.row(rank));
      EXPECT_EQ(router.Route(ids.data(), ids.size(), 1, wanted.data()), "");
      for (const ExecutorKind& kind : ExecutorKinds()) {
        SCOPED_TRACE(kind.name() + ", experts " + std::to_string(shape.experts));
        const DeviceRank device = Routed(Config(shape), step, rank);
        for (int again = 0; again < 2; ++again) {
          std::vector<int32_t> physical(ids.size(), -7);
          const RouteArguments a{&device.state(), device.plan(), ids.data(), physical.data(),
                                 ids.size()};
          device.Run(kind, Kernel::kRouteIds, &a);
          EXPECT_EQ(physical, wanted);
        }
        EXPECT_EQ(device.plan()->routed, 2u);
        EXPECT_EQ(device.TakeFailure(), DeviceRank::Failure{});
      }
    }
}

template <class Value>
void CheckMap(const PlanShape& shape, const ExecutorKind& kind, uint64_t seed) {
  Random random(seed);
  RoutedStep step = RandomStep(shape, 400, random.Next());
  const auto rank = uint32_t(random.Below(shape.ranks));
  // One choice a token: then the ids say the same as a map.
  const std::vector<int32_t>& ids = step.ids[rank];
  const uint64_t tokens = ids.size();
  const uint64_t width = uint64_t{shape.ranks} * (shape.experts_per_rank() + shape.slots);
  std::vector<uint8_t> map(tokens * shape.experts + 1);
  std::vector<Value> values(tokens * shape.experts + 1);
  for (Value& v : values) v = Value(1 + random.Below(60'000));
  std::vector<int32_t> physical(tokens);
  EXPECT_EQ(
      TokenRouter(step.plan, rank, step.row(rank)).Route(ids.data(), tokens, 1, physical.data()),
      "");
  std::vector<uint8_t> wanted(tokens * width + 1);
  std::vector<Value> wanted_values(tokens * width + 1);
  for (uint64_t t = 0; t < tokens; ++t)
    if (ids[t] >= 0) {
      map[t * shape.experts + uint32_t(ids[t])] = 1;
      wanted[t * width + uint32_t(physical[t])] = 1;
      wanted_values[t * width + uint32_t(physical[t])] =
          values[t * shape.experts + uint32_t(ids[t])];
    }
  const DeviceRank device = Routed(Config(shape), step, rank);
  for (const uint32_t bytes : {uint32_t(sizeof(Value)), 0u}) {
    std::vector<uint8_t> got(wanted.size(), 9);
    std::vector<Value> got_values(wanted.size(), 9);
    got.back() = 0;
    got_values.back() = 0;
    const RouteMapArguments a{&device.state(), device.plan(), map.data(),
                              got.data(),      values.data(), got_values.data(),
                              tokens,          bytes,         0};
    device.Run(kind, Kernel::kRouteMap, &a);
    EXPECT_EQ(got, wanted);
    if (bytes)
      EXPECT_EQ(got_values, wanted_values);
    else
      EXPECT_EQ(std::count(got_values.begin(), got_values.end(), Value(9)),
                int64_t(tokens * width));
  }
  EXPECT_EQ(device.TakeFailure(), DeviceRank::Failure{});
}

TEST(DeviceRoute, MapsGoWhereIdsGo) {
  Random random(6);
  for (const PlanShape& shape : Shapes())
    for (const ExecutorKind& kind : ExecutorKinds()) {
      SCOPED_TRACE(kind.name() + ", experts " + std::to_string(shape.experts));
      CheckMap<uint16_t>(shape, kind, random.Next());
      CheckMap<uint32_t>(shape, kind, random.Next());
    }
}

TEST(DeviceRoute, WithoutAPlanEverythingGoesToTheMains) {
  const PlanShape shape{4, 64, 3, 0};
  const RoutedStep step = RandomStep(shape, 500, 9);
  for (const DeviceVerdict verdict : {DeviceVerdict::kFallback, DeviceVerdict::kFailed}) {
    const DeviceRank device = Routed(Config(shape), step, 1, verdict);
    std::vector<int32_t> physical(step.ids[1].size(), -7);
    const RouteArguments a{&device.state(), device.plan(), step.ids[1].data(), physical.data(),
                           physical.size()};
    device.Run({2, 2}, Kernel::kRouteIds, &a);
    const PhysicalIds numbering{16, 3};
    for (size_t i = 0; i < physical.size(); ++i)
      EXPECT_EQ(physical[i],
                step.ids[1][i] < 0 ? -1 : int32_t(numbering.main(uint32_t(step.ids[1][i]))));
  }
}

TEST(DeviceRoute, OtherIdsThanThoseOfTheRowAreNoted) {
  const PlanShape shape{3, 9, 2, 0};
  const RoutedStep step = RandomStep(shape, 500, 4);
  for (const ExecutorKind& kind : ExecutorKinds()) {
    SCOPED_TRACE(kind.name());
    std::vector<int32_t> ids = step.ids[0], physical(ids.size());
    ids[7] = ids[7] == 5 ? 6 : 5;
    const DeviceRank device = Routed(Config(shape), step, 0);
    const RouteArguments a{&device.state(), device.plan(), ids.data(), physical.data(), ids.size()};
    device.Run(kind, Kernel::kRouteIds, &a);
    const DeviceRank::Failure differ = device.TakeFailure();
    EXPECT_EQ(differ.code, DeviceFailure::kCountsDiffer);
    EXPECT_EQ(differ.b, uint64_t(std::count(ids.begin(), ids.end(), int32_t(differ.a))));
    ids = step.ids[0];
    const auto none = size_t(std::find(ids.begin(), ids.end(), -1) - ids.begin());
    ids[none] = -5;
    device.Run(kind, Kernel::kRouteIds, &a);
    EXPECT_EQ(device.TakeFailure(),
              (DeviceRank::Failure{DeviceFailure::kBadId, none, uint64_t(int64_t{-5}), 0}));
    EXPECT_EQ(physical[none], -1);
  }
}

TEST(HostKernels, KernelsRunByTheirNames) {
  const DeviceRank device(Config({3, 9, 2, 0}), 0);
  const std::vector<int32_t> ids = {1, 1, 8, -1};
  const CountArguments a{&device.state(), ids.data(), ids.size(), 3, 5};
  EXPECT_TRUE(RunOnHost("ultraep_count_ids", 3, &a));
  EXPECT_EQ(RowOf(device, 0), (Row{0, 3, 0, 0, 0, {0, 2, 0, 0, 0, 0, 0, 0, 1}}));
  EXPECT_FALSE(RunOnHost("ultraep_count", 1, &a));
}

}  // namespace
}  // namespace ultraep::test

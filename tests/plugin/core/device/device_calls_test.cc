// The calls of the C ABI beside a step of ids: dense maps, rows that the framework has counted,
// rows over the framework's communicator, and what the device is told to be.
#include <map>

#include "tests/support/device_group.h"
#include "tests/support/fake_cuda/backend_process.h"
#include "tests/support/fake_cuda/fake_nccl.h"
#include "tests/support/random.h"

namespace ultraep {
namespace {

using test::DeviceConfig;
using test::DeviceGroupTest;
using test::DeviceRank;
using test::OnDevice;

constexpr uint32_t kTokens = 70;

class DeviceCalls : public DeviceGroupTest {
 protected:
  uint32_t per_rank() const { return config_.experts / config_.ranks + config_.slots; }
  // Physical ids of an expert's instances under the plan that the rank reads.
  std::multimap<uint32_t, uint32_t> Instances(DeviceRank& rank,
                                              std::vector<ultraep_replica>* replicas) {
    ultraep_plan_info info{};
    replicas->resize(uint64_t{config_.ranks} * config_.slots);
    EXPECT_EQ(
        ultraep_cuda_plan_read(rank.plan(), &info, replicas->data(), uint32_t(replicas->size())),
        ULTRAEP_OK);
    EXPECT_EQ(info.verdict, ULTRAEP_PLAN);
    replicas->resize(info.replica_count);
    const uint32_t own = config_.experts / config_.ranks;
    std::multimap<uint32_t, uint32_t> all;
    for (uint32_t e = 0; e < config_.experts; ++e) all.insert({e, e / own * per_rank() + e % own});
    for (const ultraep_replica& r : *replicas)
      all.insert({r.expert, r.rank * per_rank() + own + r.slot});
    return all;
  }
};

TEST_F(DeviceCalls, ADenseMapIsCountedAndRoutedWithItsValues) {
  Begin(DeviceConfig(3));
  const uint32_t width = config_.ranks * per_rank();
  std::vector<std::vector<uint8_t>> routed(3);
  std::vector<ultraep_replica> replicas;
  Each([&](DeviceRank& rank) {
    const auto r = uint32_t(rank.device());
    test::Random random(r + 3);
    std::vector<uint8_t> map(kTokens * config_.experts);
    std::vector<float> values(map.size());
    for (uint64_t i = 0; i < map.size(); ++i) {
      map[i] = i % config_.experts == 1 ? 1 : random.Below(4) == 0;  // expert 1 is hot
      values[i] = 1 + float(i);
    }
    OnDevice<uint8_t> on_map(rank.device(), map), to_map(rank.device(), kTokens * width);
    OnDevice<float> on_values(rank.device(), values), to_values(rank.device(), kTokens * width);
    EXPECT_EQ(ultraep_cuda_submit_map(rank.plan(), 1, 7, on_map.data(), kTokens, rank.stream()),
              ULTRAEP_OK);
    EXPECT_EQ(ultraep_cuda_await_verdict(rank.plan(), rank.stream()), ULTRAEP_OK);
    EXPECT_EQ(ultraep_cuda_route_map(rank.plan(), on_map.data(), to_map.data(), on_values.data(),
                                     to_values.data(), 4, kTokens, rank.stream()),
              ULTRAEP_OK)
        << ultraep_last_error();
    rank.Synchronize();
    std::vector<ultraep_replica> own_replicas;
    const auto instances = Instances(rank, &own_replicas);
    const std::vector<uint8_t> out = to_map.Get();
    const std::vector<float> out_values = to_values.Get();
    uint64_t ones = 0;
    for (uint64_t t = 0; t < kTokens; ++t)
      for (uint32_t e = 0; e < config_.experts; ++e) {
        uint32_t chosen = 0;
        for (auto [at, end] = instances.equal_range(e); at != end; ++at)
          if (out[t * width + at->second]) {
            ++chosen;
            EXPECT_EQ(out_values[t * width + at->second], values[t * config_.experts + e]);
          } else {
            EXPECT_EQ(out_values[t * width + at->second], 0);
          }
        EXPECT_EQ(chosen, map[t * config_.experts + e]) << "token " << t << " expert " << e;
        ones += chosen;
      }
    EXPECT_EQ(std::count(out.begin(), out.end(), 1), int64_t(ones));
    routed[r] = out;
    if (r == 0) replicas = own_replicas;
  });
  ASSERT_FALSE(replicas.empty());
  const uint32_t own = config_.experts / config_.ranks;
  for (const ultraep_replica& r : replicas) {
    uint64_t tokens = 0;
    for (const auto& out : routed)
      for (uint64_t t = 0; t < kTokens; ++t)
        tokens += out[t * width + r.rank * per_rank() + own + r.slot];
    EXPECT_EQ(tokens, r.tokens);
  }
  NothingFailed();
}

TEST_F(DeviceCalls, ARowThatTheFrameworkHasCountedIsTheStepsLoad) {
  Begin(DeviceConfig(2));
  Each([&](DeviceRank& rank) {
    rank.SetIds(rank.Ids(4));
    std::vector<uint32_t> row(config_.experts);
    for (const int32_t id : rank.Ids(4))
      if (id >= 0) ++row[uint32_t(id)];
    const OnDevice<uint32_t> on_row(rank.device(), row);
    EXPECT_EQ(ultraep_cuda_submit_row(rank.plan(), 0, 0, on_row.data(), rank.stream()), ULTRAEP_OK);
    EXPECT_EQ(ultraep_cuda_await_verdict(rank.plan(), rank.stream()), ULTRAEP_OK);
    // Routing refuses ids of other counts, so the row was this.
    EXPECT_EQ(ultraep_cuda_route(rank.plan(), rank.ids(), test::kStepTokens, test::kStepTopK,
                                 rank.physical(), rank.stream()),
              ULTRAEP_OK);
    rank.Synchronize();
    EXPECT_EQ(rank.Look(false).info.verdict, ULTRAEP_PLAN);
  });
  NothingFailed();
}

TEST_F(DeviceCalls, TheDeviceAndWhatItCostsAreTold) {
  Begin(DeviceConfig(2));
  ultraep_cuda_device_info info{};
  ASSERT_EQ(ultraep_cuda_get_device(ranks_[1]->client(), &info), ULTRAEP_OK);
  EXPECT_EQ(info.device, ranks_[1]->device());
  EXPECT_GT(std::string(info.name).size(), 0u);
  EXPECT_GE(info.architecture, 90u);
  EXPECT_EQ(info.stream_blocks, 3u);
  EXPECT_EQ(info.reduce_blocks, 2u);
  ultraep_memory memory{};
  ultraep_group_config config = config_;
  ASSERT_EQ(ultraep_memory_of(&config, &memory), ULTRAEP_OK);
  EXPECT_EQ(info.slot_bytes, memory.slots_of_rank);
  EXPECT_EQ(info.slot_bytes % (2 << 20), 0u);
  EXPECT_GT(info.slot_bytes, uint64_t{4} * 300'001);
  for (const uint64_t bytes : {info.state_bytes, info.plan_bytes, info.pinned_bytes})
    EXPECT_GT(bytes, 0u);
  config.stream_blocks = 513;
  EXPECT_EQ(ultraep_memory_of(&config, &memory), ULTRAEP_INVALID);
  EXPECT_NE(std::string(ultraep_last_error()).find("stream_blocks is 513, the limit is 512"),
            std::string::npos);
  config.stream_blocks = 0;
  config.memory = 3;
  EXPECT_EQ(ultraep_memory_of(&config, &memory), ULTRAEP_INVALID);
  EXPECT_NE(std::string(ultraep_last_error()).find("memory is 3"), std::string::npos);
}

TEST_F(DeviceCalls, RowsAreGatheredByTheFrameworksCommunicator) {
  void* const library = dlopen(ULTRAEP_FAKE_NCCL_PATH, RTLD_NOW | RTLD_LOCAL);
  const auto make = reinterpret_cast<decltype(&fake_nccl_make)>(dlsym(library, "fake_nccl_make"));
  ASSERT_NE(make, nullptr);
  Begin(DeviceConfig(3));
  void* communicators[3];
  make(communicators, 3);
  Each([&](DeviceRank& rank) {
    const uint32_t experts = config_.experts;
    std::vector<uint32_t> row(experts);
    for (uint32_t e = 0; e < experts; ++e) row[e] = 100 * rank.device() + e;
    OnDevice<uint32_t> on_row(rank.device(), row), rows(rank.device(), 3 * experts);
    EXPECT_EQ(ultraep_cuda_gather_rows(rank.client(), communicators[rank.device()], on_row.data(),
                                       rows.data(), rank.stream()),
              ULTRAEP_OK)
        << ultraep_last_error();
    EXPECT_EQ(
        ultraep_cuda_gather_rows(rank.client(), nullptr, on_row.data(), rows.data(), rank.stream()),
        ULTRAEP_INVALID);
    rank.Synchronize();
    const std::vector<uint32_t> all = rows.Get();
    for (uint32_t r = 0; r < 3; ++r)
      for (uint32_t e = 0; e < experts; ++e) EXPECT_EQ(all[r * experts + e], 100 * r + e);
  });
}

}  // namespace
}  // namespace ultraep

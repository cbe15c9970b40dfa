// A group with slots on GPUs: a real daemon, a thread per rank, each with its device.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/device_rank.h"
#include "tests/support/test_daemon.h"

namespace ultraep::test {

inline ultraep_group_config DeviceConfig(uint32_t ranks) {
  ultraep_group_config c{};
  c.struct_size = sizeof c;
  c.group_name = "gpu";
  c.ranks = ranks;
  c.experts = ranks * 2;
  c.slots = 2;
  c.layers = 2;
  c.window = 2;
  c.slot_sets = 2;
  c.training = 1;
  c.shard_count = 2;
  c.shard_bytes[0] = 300'001;  // two chunks, the second one odd
  c.shard_bytes[1] = 77;
  c.gradient_count = 2;
  c.gradient_bytes[0] = 4 * 1003;
  c.gradient_bytes[1] = 4 * 64;
  c.step_timeout_ns = 30'000'000'000;
  c.memory = ULTRAEP_CUDA_MEMORY;
  c.stream_blocks = 3;
  c.reduce_blocks = 2;
  return c;
}

// What a step must be on all ranks together: empty when it is.
std::string CheckStep(const ultraep_group_config& config, const std::vector<StepOutcome>& ranks);

class DeviceGroupTest : public testing::Test {
 protected:
  // Joins all ranks; `transfer` of all.
  void Begin(const ultraep_group_config& config, uint32_t transfer = ULTRAEP_BY_BULK_COPIES) {
    config_ = config;
    if (!daemon_) daemon_ = NewDaemon();
    for (uint32_t r = 0; r < config.ranks; ++r)
      ranks_.push_back(
          std::make_unique<DeviceRank>(socket_, config, DeviceRankOptions{r, transfer, 0}));
    Each([&](DeviceRank& rank) { EXPECT_EQ(rank.Join(), ULTRAEP_OK) << ultraep_last_error(); });
  }
  // Where there are fewer GPUs than ranks they share them.
  std::unique_ptr<TestDaemon> NewDaemon() const {
    DaemonOptions options = TestDaemon::Defaults();
    options.share_devices = true;
    return std::make_unique<TestDaemon>(socket_, options);
  }
  // body(rank) in a thread per rank.
  template <class Body>
  void Each(const Body& body) {
    std::vector<std::thread> threads;
    for (auto& rank : ranks_)
      if (rank) threads.emplace_back([&body, &rank] { body(*rank); });
    for (auto& t : threads) t.join();
  }
  // The step on all ranks; their verdict.
  ultraep_verdict Step(uint64_t step, uint32_t set = 0) {
    std::vector<StepOutcome> outcomes(ranks_.size());
    std::vector<std::thread> threads;
    for (size_t r = 0; r < ranks_.size(); ++r)
      if (ranks_[r])
        threads.emplace_back([&, r] { outcomes[r] = ranks_[r]->Step(step, set); });
    for (auto& t : threads) t.join();
    for (size_t r = 0; r < ranks_.size(); ++r)
      if (!ranks_[r]) outcomes[r] = {};
    EXPECT_EQ(CheckStep(config_, outcomes), "") << "step " << step;
    return outcomes[0].info.verdict;
  }
  // Steps from `step` on until one is planned; how many it took.
  uint64_t StepsUntilPlanned(uint64_t* step) {
    const uint64_t first = *step;
    while (*step - first < 3000)
      if (Step((*step)++) == ULTRAEP_PLAN) break;
    return *step - first;
  }
  void NothingFailed() {
    for (auto& rank : ranks_) {
      std::string text;
      if (!rank) continue;
      EXPECT_EQ(rank->Check(&text), ULTRAEP_OK) << text;
    }
  }

  TemporaryDirectory directory_;
  const std::string socket_ = directory_.path() + "/daemon.sock";
  std::unique_ptr<TestDaemon> daemon_;
  ultraep_group_config config_{};
  std::vector<std::unique_ptr<DeviceRank>> ranks_;
};

}  // namespace ultraep::test

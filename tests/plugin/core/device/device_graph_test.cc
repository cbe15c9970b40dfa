// A step as a CUDA graph: captured once, launched for step after step, over restarts of the daemon.
#include <memory>

#include "tests/support/cuda_graph.h"
#include "tests/support/device_group.h"

namespace ultraep {
namespace {

using test::CudaGraph;
using test::DeviceConfig;
using test::DeviceGroupTest;
using test::DeviceRank;
using test::StepOutcome;

class DeviceGraph : public DeviceGroupTest {
 protected:
  // Each rank's forward step on slot set 0. Ids lie where they always lie, so a launch finds new
  // ones.
  void Capture() {
    graphs_.resize(ranks_.size());
    for (size_t r = 0; r < ranks_.size(); ++r) {
      DeviceRank& rank = *ranks_[r];
      rank.SetIds(rank.Ids(0));
      graphs_[r] = std::make_unique<CudaGraph>(rank.device());
      ASSERT_EQ(graphs_[r]->Capture(rank.stream(),
                                    [&] {
                                      rank.Enqueue(0);
                                      rank.Release();
                                    }),
                CUDA_SUCCESS);
    }
  }
  ultraep_verdict Replay(uint64_t step) {
    std::vector<StepOutcome> outcomes(ranks_.size());
    std::vector<std::thread> threads;
    for (size_t r = 0; r < ranks_.size(); ++r)
      threads.emplace_back([&, r] {
        DeviceRank& rank = *ranks_[r];
        rank.SetIds(rank.Ids(step));
        EXPECT_EQ(graphs_[r]->Launch(rank.stream()), CUDA_SUCCESS);
        rank.Synchronize();
        outcomes[r] = rank.Look(true);  // nobody else has streamed since
      });
    for (auto& t : threads) t.join();
    EXPECT_EQ(test::CheckStep(config_, outcomes), "") << "step " << step;
    EXPECT_EQ(outcomes[0].info.sequence, step);
    return outcomes[0].info.verdict;
  }

  std::vector<std::unique_ptr<CudaGraph>> graphs_;
};

TEST_F(DeviceGraph, IsLaunchedForEveryStep) {
  for (const uint32_t transfer : {ULTRAEP_BY_BULK_COPIES, ULTRAEP_BY_PLAIN_COPIES}) {
    Begin(DeviceConfig(3), transfer);
    Capture();
    uint64_t planned = 0;
    for (uint64_t step = 0; step < 20; ++step) planned += Replay(step) == ULTRAEP_PLAN;
    EXPECT_GE(planned, 18u);
    NothingFailed();
    graphs_.clear();
    ranks_.clear();
  }
}

TEST_F(DeviceGraph, StaysValidOverRestartsOfTheDaemon) {
  Begin(DeviceConfig(2));
  Capture();
  uint64_t step = 0;
  for (int restart = 0; restart < 3; ++restart) {
    uint64_t tries = 0;
    while (Replay(step++) != ULTRAEP_PLAN && ++tries < 3000) {
    }
    for (int i = 0; i < 3; ++i) EXPECT_EQ(Replay(step++), ULTRAEP_PLAN);
    daemon_ = nullptr;
    for (int i = 0; i < 3; ++i) EXPECT_NE(Replay(step++), ULTRAEP_PLAN);
    daemon_ = NewDaemon();
  }
  NothingFailed();
}

TEST_F(DeviceGraph, IsRefusedWithTheCopyEngineWhichNeedsThePlan) {
  Begin(DeviceConfig(2), ULTRAEP_BY_COPY_ENGINE);
  DeviceRank& rank = *ranks_[0];
  CudaGraph graph(rank.device());
  EXPECT_EQ(graph.Capture(rank.stream(),
                          [&] {
                            EXPECT_EQ(ultraep_cuda_stream_weights(
                                          rank.plan(), 0, ULTRAEP_BY_COPY_ENGINE, rank.stream()),
                                      ULTRAEP_INVALID);
                            EXPECT_NE(std::string(ultraep_last_error()).find("a capture has none"),
                                      std::string::npos)
                                << ultraep_last_error();
                          }),
            CUDA_SUCCESS);
}

}  // namespace
}  // namespace ultraep

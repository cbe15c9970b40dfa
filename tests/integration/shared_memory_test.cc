// The shared-memory core with real threads on one mapping: what ThreadSanitizer judges. Every rank
// is a thread, the planner another; weights are streamed and read at every step.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "daemon/session/step_planner.h"
#include "plugin/core/steps.h"
#include "plugin/core/streamer.h"
#include "protocol/transport/waiting.h"
#include "tests/support/memory_group.h"
#include "tests/support/random.h"

namespace ultraep {
namespace {

using test::MemoryGroup;
using test::Random;

constexpr uint64_t kSecond = 1'000'000'000;

struct Outcome {
  std::vector<ultraep_verdict> verdicts;
  std::vector<uint64_t> digests;  // of the plan, 0 without one
  uint64_t failed_at = UINT64_MAX;
  uint64_t streamed = 0;
};

class SharedMemoryTest : public testing::Test {
 protected:
  static GroupConfig Config(uint32_t ranks) {
    GroupConfig c = test::SmallConfig(ranks, ranks * 4, 2, 3);
    c.shard_bytes[0] = 3000;
    return c;
  }

  // The weights of an expert are bytes of its own number, so that a foreign byte shows.
  static void Rank(MemoryGroup& group, uint32_t rank, uint64_t steps, uint64_t end_at,
                   Outcome* outcome) {
    const GroupConfig& config = group.layout().config;
    const uint32_t mains_count = config.shape().experts_per_rank();
    Steps protocol(config, 0);
    auto generation = group.Attach(rank);
    protocol.Adopt(generation);
    while (LoadGate(group.boards().gate()).state == GateState::kClosed) std::this_thread::yield();
    std::vector<std::vector<unsigned char>> weights;
    std::vector<const void*> mains;
    for (uint32_t e = 0; e < mains_count; ++e)
      for (uint32_t i = 0; i < config.shard_count; ++i)
        weights.emplace_back(config.shard_bytes[i],
                             static_cast<unsigned char>(rank * mains_count + e + 1));
    for (auto& w : weights) mains.push_back(w.data());
    Random random(rank + 1);
    std::vector<uint32_t> row(config.experts);
    for (uint64_t s = 0; s < steps; ++s) {
      for (uint32_t e = 0; e < config.experts; ++e)
        row[e] = uint32_t(random.Below(10) + ((e + s) % 7 == 0 ? 300 : 0));
      ResolvedStep step;
      if (!protocol.Submit(s, 0, 0, row.data(), config.experts).ok()) break;
      if (s == end_at) {
        EndGate(group.boards().gate());
        generation->WakeMembers();
      }
      Result resolved = protocol.Await(s, 30 * kSecond, &step);
      if (!resolved.ok()) {
        outcome->failed_at = s;
        ADD_FAILURE() << resolved.text;
        return;
      }
      outcome->verdicts.push_back(step.verdict);
      outcome->digests.push_back(step.plan.header.content);
      if (!step.plan.replicas.empty()) UseWeights(group, *generation, step, mains, outcome);
    }
    protocol.ResolveAll();
  }

  static void UseWeights(MemoryGroup& group, Generation& generation, const ResolvedStep& step,
                         const std::vector<const void*>& mains, Outcome* outcome) {
    const GroupConfig& config = group.layout().config;
    std::shared_ptr<Stream> stream;
    Streamer& streamer = *generation.streamer;
    ASSERT_TRUE(streamer.Start(step.plan, false, 0, mains.data(), &stream).ok());
    Result arrived = streamer.AwaitArrival(stream.get(), 30 * kSecond);
    ASSERT_TRUE(arrived.ok()) << arrived.text;
    for (const Replica& r : step.plan.replicas) {
      if (r.rank != generation.rank) continue;
      for (uint32_t i = 0; i < config.shard_count; ++i) {
        const unsigned char* at = group.boards().shard(r.rank, 0, r.slot, i);
        for (uint64_t b = 0; b < config.shard_bytes[i]; ++b)
          ASSERT_EQ(at[b], static_cast<unsigned char>(r.expert + 1));
      }
      ++outcome->streamed;
    }
    Result released = streamer.Release(stream.get(), 30 * kSecond);
    ASSERT_TRUE(released.ok()) << released.text;
  }

  // Runs all ranks and the planner; rank 1 ends the generation at step `end_at`.
  static std::vector<Outcome> Run(uint32_t ranks, uint64_t steps, uint64_t end_at) {
    MemoryGroup group(Config(ranks));
    std::vector<Outcome> outcomes(ranks);
    std::vector<std::thread> threads;
    for (uint32_t r = 0; r < ranks; ++r)
      threads.emplace_back(
          [&, r] { Rank(group, r, steps, r == 1 ? end_at : UINT64_MAX, &outcomes[r]); });
    std::atomic<bool> stop{false};
    std::thread planner([&] {
      StepPlanner step_planner(group.boards(), MemoryGroup::kGeneration, {},
                               std::make_shared<StepStatistics>());
      OpenGate(group.boards().gate());
      while (!stop) {
        if (step_planner.Poll() == StepPlanner::Progress::kStep)
          PulseAndWake(group.boards().pulse());
        else
          std::this_thread::yield();
      }
    });
    for (auto& t : threads) t.join();
    stop = true;
    planner.join();
    return outcomes;
  }
};

TEST_F(SharedMemoryTest, EveryRankGetsTheSamePlanAndWholeWeightsAtEveryStep) {
  const auto outcomes = Run(3, 300, UINT64_MAX);
  uint64_t streamed = 0;
  uint64_t planned = 0;
  for (const Outcome& o : outcomes) {
    ASSERT_EQ(o.verdicts.size(), 300u);
    streamed += o.streamed;
    EXPECT_EQ(o.verdicts, outcomes[0].verdicts);
    EXPECT_EQ(o.digests, outcomes[0].digests);
  }
  for (auto v : outcomes[0].verdicts) planned += v == ULTRAEP_PLAN;
  EXPECT_GT(planned, 250u);
  EXPECT_GT(streamed, 300u);
}

// The gate ends while rows, records and proposals are under way, at many different moments.
TEST_F(SharedMemoryTest, WhenTheGenerationEndsAnywhereEveryStepHasOneVerdict) {
  for (uint64_t end_at = 0; end_at < 20; ++end_at) {
    const auto outcomes = Run(3, 30, end_at);
    for (uint64_t s = 0; s < 30; ++s) {
      bool plan = false, other = false;
      for (const Outcome& o : outcomes) {
        ASSERT_EQ(o.verdicts.size(), 30u);
        (o.verdicts[s] == ULTRAEP_PLAN ? plan : other) = true;
      }
      EXPECT_FALSE(plan && other) << "step " << s << " ended at " << end_at;
    }
    EXPECT_NE(outcomes[0].verdicts.back(), ULTRAEP_PLAN);
  }
}

// A reader that spins on the verdict word copies the record the moment PLAN is visible.
TEST_F(SharedMemoryTest, ARecordIsWholeAsSoonAsItsVerdictIsVisible) {
  MemoryGroup group(Config(1));
  Steps rank(group.layout().config, 0);
  auto generation = group.Attach(0);
  generation->settings.spin_ns = kSecond;
  rank.Adopt(generation);
  OpenGate(group.boards().gate());
  constexpr uint64_t kSteps = 3000;
  std::thread planner([&] {
    StepPlanner step_planner(group.boards(), MemoryGroup::kGeneration, {},
                               std::make_shared<StepStatistics>());
    while (step_planner.next_sequence() < kSteps)
      if (step_planner.Poll() == StepPlanner::Progress::kOver) break;
  });
  std::vector<uint32_t> row(4, 7);
  for (uint64_t s = 0; s < kSteps; ++s) {
    ResolvedStep step;
    row[s % 4] = uint32_t(s);
    ASSERT_TRUE(rank.Submit(s, 0, 0, row.data(), 4).ok());
    Result resolved = rank.Await(s, 30 * kSecond, &step);
    ASSERT_TRUE(resolved.ok()) << resolved.text;
  }
  planner.join();
}

// All ranks and the planner propose at once, FALLBACK against PLAN.
TEST_F(SharedMemoryTest, OfAllProposalsForAStepExactlyOneWins) {
  for (uint64_t round = 0; round < 200; ++round) {
    Word word{};
    std::atomic<int> winners{0};
    std::atomic<uint64_t> seen[4] = {};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        bool won = false;
        seen[t] = Propose(word, round, t ? Verdict::kFallback : Verdict::kPlan, &won).Encode();
        winners += won;
      });
    for (auto& t : threads) t.join();
    EXPECT_EQ(winners, 1);
    for (auto& s : seen) EXPECT_EQ(s, word.value.load());
  }
}

}  // namespace
}  // namespace ultraep

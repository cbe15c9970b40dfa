// Training through the C ABI: forward, restore, backward, reduction, with a real daemon.
#include <array>

#include "kernels/bfloat16.h"
#include "tests/support/attach_fixture.h"

namespace ultraep {
namespace {

using namespace test;

constexpr uint64_t kElements[2] = {3000, 5};

// Both ranks send most of their tokens to expert 0 of rank 0, so rank 1 gets a replica of it.
class GradientsTest : public AttachTest {
 protected:
  static ultraep_group_config Training(uint32_t rank) {
    auto c = Config(rank);
    c.training = 1;
    c.gradient_count = 2;
    for (int i = 0; i < 2; ++i) c.gradient_bytes[i] = kElements[i] * 4;
    return c;
  }
  // Two clients in an open group.
  void Join(uint64_t step_timeout_ns = 20 * kSecond) {
    for (uint32_t r = 0; r < 2; ++r) {
      auto config = Training(r);
      config.step_timeout_ns = step_timeout_ns;
      ASSERT_EQ(ultraep_join(Attach(), &config, 0), ULTRAEP_OK) << ultraep_last_error();
    }
    for (auto* c : clients_) ASSERT_EQ(AwaitPhase(c, ULTRAEP_OPEN), ULTRAEP_OPEN) << text_;
  }
  // A step's plan on both ranks, not streamed yet.
  std::array<ultraep_plan*, 2> Plan(uint64_t sequence) {
    const uint32_t row[4] = {50, 1, 1, 1};
    std::array<ultraep_plan*, 2> plans{};
    for (auto* c : clients_)
      EXPECT_EQ(ultraep_submit_load(c, sequence, 0, 0, row, 4), ULTRAEP_OK) << ultraep_last_error();
    for (int r = 0; r < 2; ++r)
      EXPECT_EQ(ultraep_await_verdict(clients_[r], sequence, -1, &plans[r]), ULTRAEP_OK)
          << ultraep_last_error();
    return plans;
  }
  static ultraep_status Stream(ultraep_plan* plan) {
    static const unsigned char weights[4096] = {};
    const void* mains[2] = {weights, weights};
    return ultraep_stream_weights(plan, 0, mains);
  }
  // Rank 1's backward of the replica.
  static void Backward(ultraep_plan* plan, float value) {
    uint32_t expert = 7;
    float* parts[ULTRAEP_MAX_SHARDS] = {};
    ASSERT_EQ(ultraep_plan_get_gradient(plan, 0, &expert, parts), ULTRAEP_OK)
        << ultraep_last_error();
    ASSERT_EQ(expert, 0u);
    for (int i = 0; i < 2; ++i)
      for (uint64_t k = 0; k < kElements[i]; ++k) parts[i][k] += value;
  }
};

template <class Main>
struct Mains {
  explicit Mains(Main value) {
    for (int e = 0; e < 2; ++e)
      for (int i = 0; i < 2; ++i) {
        of[e][i].assign(kElements[i], value);
        at[e * 2 + i] = of[e][i].data();
      }
  }
  std::vector<Main> of[2][2];  // [own expert][part]
  void* at[4];
};

TEST_F(GradientsTest, ABackwardAddsTheReplicasGradientToTheHomesAndSaysWhatItTook) {
  TestDaemon daemon(socket_);
  Join();
  Mains<float> mains[2] = {Mains<float>(1), Mains<float>(1)};
  for (uint64_t step = 0; step < 3; ++step) {
    const auto plans = Plan(step);
    for (auto* p : plans) ASSERT_EQ(Stream(p), ULTRAEP_OK) << ultraep_last_error();  // forward
    for (auto* p : plans) ASSERT_EQ(ultraep_release(p, -1), ULTRAEP_OK) << ultraep_last_error();
    for (auto* p : plans) ASSERT_EQ(Stream(p), ULTRAEP_OK) << ultraep_last_error();  // restore
    for (auto* p : plans)
      ASSERT_EQ(ultraep_prepare_gradients(p, 1, -1), ULTRAEP_OK) << ultraep_last_error();
    Backward(plans[1], float(step + 1));
    for (int r = 0; r < 2; ++r)
      ASSERT_EQ(ultraep_reduce_gradients(plans[r], mains[r].at, ULTRAEP_FLOAT32, 0), ULTRAEP_OK)
          << ultraep_last_error();
    for (auto* p : plans) ASSERT_EQ(ultraep_release(p, -1), ULTRAEP_OK) << ultraep_last_error();
    for (auto* p : plans)
      ASSERT_EQ(ultraep_await_gradients(p, -1), ULTRAEP_OK) << ultraep_last_error();
    ultraep_reduce_stats home{}, replica{};
    ASSERT_EQ(ultraep_plan_get_reduce_stats(plans[0], &home), ULTRAEP_OK);
    ASSERT_EQ(ultraep_plan_get_reduce_stats(plans[1], &replica), ULTRAEP_OK);
    EXPECT_EQ(home.bytes, (kElements[0] + kElements[1]) * 4);
    EXPECT_EQ(home.replicas, 1u);
    EXPECT_GT(home.reduce_ns, 0u);
    EXPECT_EQ(replica.bytes, 0u);
    EXPECT_GT(replica.prepare_ns, 0u);
    ultraep_stream_stats sent{}, received{};
    ASSERT_EQ(ultraep_plan_get_stream_stats(plans[0], &sent), ULTRAEP_OK);
    ASSERT_EQ(ultraep_plan_get_stream_stats(plans[1], &received), ULTRAEP_OK);
    EXPECT_EQ(sent.loaded_bytes, 4096u);
    EXPECT_GT(sent.send_ns, 0u);
    EXPECT_GT(received.arrive_ns, 0u);
    for (auto* p : plans) ultraep_plan_free(p);
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(mains[0].of[0][i], std::vector<float>(kElements[i], 1 + 1 + 2 + 3));
    EXPECT_EQ(mains[0].of[1][i], std::vector<float>(kElements[i], 1));
    EXPECT_EQ(mains[1].of[0][i], std::vector<float>(kElements[i], 1));
  }
}

// At 1 a bfloat16 counts in steps of 2/256.
TEST_F(GradientsTest, Bfloat16MainsAreRoundedOnceAndTheLastFreeOfAPlanAwaitsThem) {
  TestDaemon daemon(socket_);
  Join();
  Mains<Bfloat16> mains[2] = {Mains<Bfloat16>(ToBfloat16(1)), Mains<Bfloat16>(ToBfloat16(1))};
  const auto plans = Plan(0);
  for (auto* p : plans) ASSERT_EQ(Stream(p), ULTRAEP_OK);
  for (auto* p : plans) ASSERT_EQ(ultraep_prepare_gradients(p, 1, -1), ULTRAEP_OK);
  Backward(plans[1], 3.0f / 256);
  ASSERT_EQ(ultraep_reduce_gradients(plans[0], mains[0].at, ULTRAEP_BFLOAT16, 1), ULTRAEP_OK)
      << ultraep_last_error();
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(ultraep_reduce_gradients(plans[1], mains[1].at, ULTRAEP_BFLOAT16, 1), ULTRAEP_OK);
  });
  ultraep_plan_free(plans[0]);
  for (const Bfloat16& m : mains[0].of[0][0]) EXPECT_EQ(ToFloat(m), 1 + 4.0f / 256) << "a tie";
  late.join();
  ultraep_plan_free(plans[1]);
}

TEST_F(GradientsTest, CallsOutOfOrderAreRefusedWithWhatIsMissing) {
  TestDaemon daemon(socket_);
  Join();
  const auto plans = Plan(0);
  ultraep_plan* const plan = plans[1];
  Mains<float> mains(1);
  uint32_t expert = 0;
  float* parts[ULTRAEP_MAX_SHARDS];
  const auto refused = [](ultraep_status status, const char* text) {
    EXPECT_EQ(status, ULTRAEP_INVALID);
    EXPECT_NE(std::string(ultraep_last_error()).find(text), std::string::npos)
        << ultraep_last_error();
  };
  refused(ultraep_prepare_gradients(plan, 1, -1), "stream the plan's weights first");
  for (auto* p : plans) ASSERT_EQ(Stream(p), ULTRAEP_OK);
  refused(ultraep_plan_get_gradient(plan, 0, &expert, parts), "not prepared");
  refused(ultraep_reduce_gradients(plan, mains.at, ULTRAEP_FLOAT32, 0), "prepare the plan's");
  ASSERT_EQ(ultraep_prepare_gradients(plan, 1, -1), ULTRAEP_OK);
  refused(ultraep_plan_get_gradient(plan, 1, &expert, parts), "slot is 1, the group has 1");
  refused(ultraep_reduce_gradients(plan, nullptr, ULTRAEP_FLOAT32, 0), "main_gradients[0] is NULL");
  refused(ultraep_reduce_gradients(plan, mains.at, 2, 0), "type is 2");
  void* const aligned = std::exchange(mains.at[2], static_cast<char*>(mains.at[2]) + 2);
  refused(ultraep_reduce_gradients(plan, mains.at, ULTRAEP_FLOAT32, 0),
          "main_gradients[2] is NULL or not on 4 bytes");
  mains.at[2] = aligned;
  EXPECT_EQ(ultraep_reduce_gradients(plan, mains.at, ULTRAEP_FLOAT32, 0), ULTRAEP_OK);
  refused(ultraep_reduce_gradients(plan, mains.at, ULTRAEP_FLOAT32, 0), "reduced already");
  refused(ultraep_plan_get_gradient(plan, 0, &expert, parts), "reduced already");
  ultraep_reduce_stats stats{};
  refused(ultraep_plan_get_reduce_stats(plan, &stats), "not awaited");
  ASSERT_EQ(ultraep_prepare_gradients(plans[0], 1, -1), ULTRAEP_OK);
  ASSERT_EQ(ultraep_reduce_gradients(plans[0], mains.at, ULTRAEP_FLOAT32, 0), ULTRAEP_OK);
  for (auto* p : plans) EXPECT_EQ(ultraep_await_gradients(p, -1), ULTRAEP_OK);
  for (auto* p : plans) ultraep_plan_free(p);
}

// Rank 1 never reduces. Nobody adds to rank 0's gradients once its plan is freed.
TEST_F(GradientsTest, AFreeGivesUpAtTheStepTimeoutAndFailsTheGroup) {
  TestDaemon daemon(socket_);
  Join(kSecond / 2);
  const auto plans = Plan(0);
  for (auto* p : plans) ASSERT_EQ(Stream(p), ULTRAEP_OK);
  for (auto* p : plans) ASSERT_EQ(ultraep_prepare_gradients(p, 1, -1), ULTRAEP_OK);
  Mains<float> mains(1);
  ASSERT_EQ(ultraep_reduce_gradients(plans[0], mains.at, ULTRAEP_FLOAT32, 0), ULTRAEP_OK);
  EXPECT_EQ(ultraep_await_gradients(plans[0], kSecond / 50), ULTRAEP_TIMEOUT);
  const auto start = std::chrono::steady_clock::now();
  ultraep_plan_free(plans[0]);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  EXPECT_EQ(ultraep_reduce_gradients(plans[1], mains.at, ULTRAEP_FLOAT32, 0), ULTRAEP_FAILED);
  ultraep_plan_free(plans[1]);
  EXPECT_EQ(mains.of[0][0], std::vector<float>(kElements[0], 1));
}

// The same calls do nothing where nothing was planned; a serving group says what it lacks.
TEST_F(GradientsTest, WithoutReplicasTheSameCallsDoNothing) {
  for (const bool training : {true, false}) {
    auto config = training ? Training(0) : Config(0);
    auto* client = Attach();
    ASSERT_EQ(ultraep_join(client, &config, 0), ULTRAEP_OK);
    const uint32_t row[4] = {50, 1, 1, 1};
    ultraep_plan* plan = nullptr;
    ASSERT_EQ(ultraep_submit_load(client, 0, 0, 0, row, 4), ULTRAEP_OK);
    ASSERT_EQ(ultraep_await_verdict(client, 0, -1, &plan), ULTRAEP_OK);
    const ultraep_status want = training ? ULTRAEP_OK : ULTRAEP_INVALID;
    Mains<float> mains(1);
    uint32_t expert = 0;
    float* parts[ULTRAEP_MAX_SHARDS];
    EXPECT_EQ(ultraep_prepare_gradients(plan, 1, -1), want);
    EXPECT_EQ(ultraep_plan_get_gradient(plan, 0, &expert, parts), want);
    EXPECT_EQ(expert, training ? UINT32_MAX : 0);
    EXPECT_EQ(ultraep_reduce_gradients(plan, mains.at, ULTRAEP_FLOAT32, 0), want);
    EXPECT_EQ(ultraep_await_gradients(plan, -1), ULTRAEP_OK);
    if (!training) {
      EXPECT_NE(std::string(ultraep_last_error()).find("join with training"), std::string::npos);
    }
    ultraep_plan_free(plan);
  }
}

}  // namespace
}  // namespace ultraep

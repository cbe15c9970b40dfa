#include "plugin/core/workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

namespace ultraep {
namespace {

struct Shared {
  std::atomic<int> inside{0}, most{0}, worked{0};
  std::vector<int> finished;
};

class TestJob : public Job {
 public:
  TestJob(Shared* shared, int number) : shared_(*shared), number_(number) {}
  void Work() override {
    EXPECT_EQ(shared_.finished.size(), size_t(number_)) << "the job before is not over";
    const int inside = ++shared_.inside;
    if (inside > shared_.most) shared_.most = inside;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
    --shared_.inside;
    ++shared_.worked;
    ++worked_;
  }
  void Finish() override {
    EXPECT_EQ(worked_, 3);
    shared_.finished.push_back(number_);
  }

 private:
  Shared& shared_;
  const int number_;
  std::atomic<int> worked_{0};
};

TEST(Workers, AllWorkOnOneJobThenOnTheNextAndNoneIsLostAtTheEnd) {
  Shared shared;
  {
    Workers workers("test", 3);
    for (int i = 0; i < 50; ++i)
      workers.Add(workers.Prepare(std::make_shared<TestJob>(&shared, i)));
  }
  EXPECT_EQ(shared.worked, 150);
  ASSERT_EQ(shared.finished.size(), 50u);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(shared.finished[size_t(i)], i);
  EXPECT_GT(shared.most, 1) << "side by side";
}

TEST(Workers, WithoutAJobThereIsNothingToStop) { Workers workers("test", 4); }

}  // namespace
}  // namespace ultraep

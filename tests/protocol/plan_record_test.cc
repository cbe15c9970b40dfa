#include "protocol/plan_record.h"

#include <gtest/gtest.h>

#include "tests/support/random.h"

namespace ultraep {
namespace {

using test::Random;

struct Example {
  PlanShape shape;
  std::vector<uint32_t> load;
  RecordedPlan plan;

  LoadView view() const { return {load.data(), shape.ranks, shape.experts}; }
};

// A legal plan of random shape: as many replicas as fit, one token each or more.
Example RandomExample(uint64_t seed) {
  Random random(seed);
  Example x;
  x.shape.ranks = 2 + uint32_t(random.Below(5));
  x.shape.experts = x.shape.ranks * (1 + uint32_t(random.Below(3)));
  x.shape.slots = 1 + uint32_t(random.Below(2));
  x.load.resize(x.shape.ranks * x.shape.experts);
  for (auto& cell : x.load) cell = 1 + uint32_t(random.Below(1000));
  x.plan.shape = x.shape;
  std::vector<uint64_t> left(x.shape.experts);
  for (uint32_t e = 0; e < x.shape.experts; ++e) left[e] = ExpertTokens(x.view(), e);
  for (uint32_t r = 0; r < x.shape.ranks; ++r) {
    uint32_t slot = 0;
    for (uint32_t e = 0; e < x.shape.experts && slot < x.shape.slots; ++e) {
      if (x.shape.home(e) == r || random.Below(2)) continue;
      const uint64_t tokens = 1 + random.Below(left[e] / x.shape.ranks);
      x.plan.replicas.push_back({e, uint16_t(r), uint16_t(slot++), -1, 0, tokens});
      left[e] -= tokens;
    }
  }
  x.plan.header.generation = 9;
  x.plan.header.sequence = seed;
  x.plan.Close(x.view());
  return x;
}

// A plan board's record on the heap, and a reader of it.
class SharedRecord {
 public:
  explicit SharedRecord(const Example& x)
      : shape_(x.shape), layout_(x.shape), memory_(layout_.bytes / 8) {}

  unsigned char* bytes() { return reinterpret_cast<unsigned char*>(memory_.data()); }
  void Write(const RecordedPlan& plan) { WriteRecord(layout_, bytes(), plan); }
  std::string Read(const RecordExpectation& expect) {
    return ReadRecord(layout_, shape_, bytes(), expect, &checker_, &plan);
  }

  RecordedPlan plan;  // what Read copied

 private:
  const PlanShape shape_;
  const PlanRecordLayout layout_;
  std::vector<uint64_t> memory_;
  PlanChecker checker_;
};

TEST(PlanRecordTest, WhatIsWrittenIsReadBackForRandomShapes) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const Example x = RandomExample(seed);
    SharedRecord record(x);
    record.Write(x.plan);
    for (uint32_t source = 0; source < x.shape.ranks; ++source) {
      const RecordExpectation expect{9, seed, source, x.view().row(source)};
      ASSERT_EQ(record.Read(expect), "") << "seed " << seed;
      EXPECT_EQ(record.plan.replicas, x.plan.replicas);
      EXPECT_EQ(record.plan.columns, x.plan.columns);
      EXPECT_EQ(record.plan.column_experts, x.plan.column_experts);
    }
  }
}

TEST(PlanRecordTest, EachExpectationThatIsNotMetIsNamed) {
  Example x = RandomExample(3);
  SharedRecord record(x);
  record.Write(x.plan);
  auto why = [&](uint64_t generation, uint64_t sequence, const uint32_t* row) {
    return record.Read({generation, sequence, 0, row});
  };
  std::vector<uint32_t> row(x.view().row(0), x.view().row(0) + x.shape.experts);
  EXPECT_EQ(why(9, 3, row.data()), "");
  EXPECT_NE(why(8, 3, row.data()).find("generation is 9, expected 8"), std::string::npos);
  EXPECT_NE(why(9, 4, row.data()).find("sequence is 3, expected 4"), std::string::npos);
  for (auto& cell : row) ++cell;
  EXPECT_NE(why(9, 3, row.data()).find("own load"), std::string::npos);
}

// With a matching digest too: a hostile or broken writer, not a torn record.
TEST(PlanRecordTest, AnIllegalPlanWithARightDigestIsRefused) {
  Example x = RandomExample(3);
  ASSERT_FALSE(x.plan.replicas.empty());
  x.plan.replicas[0].tokens = uint64_t{1} << 50;
  x.plan.Close(x.view());
  SharedRecord record(x);
  record.Write(x.plan);
  const std::string why = record.Read({9, 3, 0, x.view().row(0)});
  EXPECT_NE(why.find("quotas exceed the expert's load"), std::string::npos) << why;
}

TEST(PlanRecordTest, CountsBeyondTheLayoutAreRefusedBeforeAnythingIsCopied) {
  const Example x = RandomExample(5);
  SharedRecord record(x);
  RecordedPlan plan = x.plan;
  plan.header.replicas = UINT32_MAX;
  CopyToShared(record.bytes(), &plan.header, sizeof plan.header);
  EXPECT_NE(record.Read({9, 5, 0, x.view().row(0)}).find("number of replicas is 4294967295"),
            std::string::npos);
}

}  // namespace
}  // namespace ultraep

#include "plugin/core/memory_switch.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/memory_group.h"

namespace ultraep {
namespace {

using test::MemoryGroup;
using test::SmallConfig;

class MemorySwitchTest : public testing::Test {
 protected:
  // A generation whose gate is CLOSED with n = first; Open, End and Fail move it.
  std::shared_ptr<Generation> Make(uint64_t first) {
    groups_.push_back(std::make_unique<MemoryGroup>(SmallConfig(2, 4, 1, 2)));
    auto made = groups_.back()->Attach(0);
    RaiseGate(made->boards.gate(), first);
    switch_.Add(made);
    return made;
  }
  std::shared_ptr<Generation> Open(uint64_t first) {
    auto made = Make(first);
    OpenGate(made->boards.gate());
    return made;
  }
  std::shared_ptr<Generation> At(uint64_t sequence) {
    switch_.Load(sequence);
    return switch_.current();
  }

  std::vector<std::unique_ptr<MemoryGroup>> groups_;
  MemorySwitch switch_;
};

TEST_F(MemorySwitchTest, TheSwitchComesAtTheFirstStepAndNotBefore) {
  auto a = Open(3);
  EXPECT_EQ(At(2), nullptr);
  EXPECT_EQ(At(3), a);
  a->End();
  auto b = Open(7);
  EXPECT_EQ(At(6), a) << "others may still be before step 7";
  EXPECT_EQ(At(7), b);
  EXPECT_EQ(At(8), b);
}

TEST_F(MemorySwitchTest, AClosedGenerationIsNotSwitchedToWhateverItsN) {
  auto a = Open(0);
  auto b = Make(2);
  EXPECT_EQ(At(5), a);
  RaiseGate(b->boards.gate(), 6);
  OpenGate(b->boards.gate());
  EXPECT_EQ(At(6), b);
}

TEST_F(MemorySwitchTest, AGenerationThatIsOverIsStillSwitchedToSinceOthersMayHave) {
  auto a = Open(0);
  EXPECT_EQ(At(0), a);
  auto b = Open(4);
  b->End();
  EXPECT_EQ(At(3), a);
  EXPECT_EQ(At(4), b);
  auto c = Open(6);
  c->Fail();
  EXPECT_EQ(At(6), c);
}

TEST_F(MemorySwitchTest, OneThatNeverOpenedIsDroppedAndTheNewestOfTheOthersCounts) {
  auto a = Open(0);
  auto dead = Make(1);
  dead->End();
  auto b = Open(4);
  b->End();
  auto c = Open(4);  // first steps need not grow
  EXPECT_EQ(At(3), a);
  EXPECT_EQ(At(4), c);
  EXPECT_EQ(switch_.held().size(), 1u);
}

TEST_F(MemorySwitchTest, WhatIsLeftBehindLivesUntilItIsFreed) {
  std::weak_ptr<Generation> a = Open(0);
  At(0);
  Open(1);
  At(1);
  EXPECT_FALSE(a.expired()) << "not on the framework's thread";
  switch_.FreeLeftBehind();
  EXPECT_TRUE(a.expired());
}

}  // namespace
}  // namespace ultraep

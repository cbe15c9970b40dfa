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
  a.reset();
  b.reset();
  dead.reset();
  switch_.FreeLeftBehind();
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

// A rank that loads nothing for long while generations come and go holds two, not all of them.
TEST_F(MemorySwitchTest, WhatWillNeverBeSwitchedToIsFreedWithoutALoad) {
  auto a = Open(0);
  EXPECT_EQ(At(0), a);
  std::weak_ptr<Generation> dead = Make(1), superseded = Open(1), newest = Open(1);
  dead.lock()->End();
  superseded.lock()->End();
  switch_.FreeLeftBehind();
  EXPECT_TRUE(dead.expired());
  EXPECT_TRUE(superseded.expired());
  EXPECT_FALSE(newest.expired());
  std::weak_ptr<Generation> later = Open(5), closed = Make(0);
  switch_.FreeLeftBehind();
  EXPECT_FALSE(newest.expired()) << "steps 1 to 4 may still be loaded";
  EXPECT_FALSE(later.expired());
  EXPECT_FALSE(closed.expired()) << "its first step is not known yet";
  EXPECT_EQ(At(1), newest.lock());
}

// Else the others would take a rank for wedged that still serves an operation.
TEST_F(MemorySwitchTest, WhatAnOperationStillUsesIsHeldAfterTheSwitch) {
  auto used = Open(0);
  At(0);
  auto b = Open(1);
  At(1);
  switch_.FreeLeftBehind();
  EXPECT_EQ(switch_.held(), (std::vector{used, b}));
  used.reset();
  switch_.FreeLeftBehind();
  EXPECT_EQ(switch_.held(), std::vector{b});
}

TEST_F(MemorySwitchTest, WhoHasLeftHoldsNothing) {
  std::weak_ptr<Generation> a = Open(0);
  At(0);
  std::weak_ptr<Generation> b = Open(1), c = Make(2);
  At(1);
  switch_.Clear();
  EXPECT_TRUE(a.expired() && b.expired() && c.expired());
  EXPECT_EQ(switch_.current(), nullptr);
}

}  // namespace
}  // namespace ultraep

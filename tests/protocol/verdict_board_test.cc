#include "protocol/verdict_board.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

Word WithGate(GateState state, uint64_t value) { return Word{{Gate{state, value}.Encode()}}; }

TEST(GateTest, OnlyTheTransitionsOfRuleZeroHappen) {
  const struct {
    GateState from, opened, ended, failed;
  } rows[] = {
      {GateState::kClosed, GateState::kOpen, GateState::kDead, GateState::kClosed},
      {GateState::kOpen, GateState::kOpen, GateState::kEnded, GateState::kFailed},
      {GateState::kEnded, GateState::kEnded, GateState::kEnded, GateState::kFailed},
      {GateState::kFailed, GateState::kFailed, GateState::kFailed, GateState::kFailed},
      {GateState::kDead, GateState::kDead, GateState::kDead, GateState::kDead},
  };
  for (const auto& row : rows) {
    Word gate = WithGate(row.from, 7);
    EXPECT_EQ(OpenGate(gate).state, row.opened);
    gate.value = Gate{row.from, 7}.Encode();
    EXPECT_EQ(EndGate(gate).state, row.ended);
    gate.value = Gate{row.from, 7}.Encode();
    EXPECT_EQ(FailGate(gate).state, row.failed);
    EXPECT_EQ(LoadGate(gate).value, 7u) << "the named step never changes";
  }
}

TEST(GateTest, RaisingMovesOnlyAClosedGateAndOnlyUp) {
  Word gate = WithGate(GateState::kClosed, 7);
  EXPECT_EQ(RaiseGate(gate, 5).value, 7u);
  EXPECT_EQ(RaiseGate(gate, 9).value, 9u);
  gate.value = Gate{GateState::kOpen, 7}.Encode();
  EXPECT_EQ(RaiseGate(gate, 9).value, 7u);
}

TEST(GateTest, TellsWhetherThisCallMovedIt) {
  Word gate = WithGate(GateState::kOpen, 1);
  bool changed = false;
  EndGate(gate, &changed);
  EXPECT_TRUE(changed);
  EndGate(gate, &changed);
  EXPECT_FALSE(changed);
}

TEST(GateTest, AdmitsStepsFromTheNamedOneOnWhileOpen) {
  EXPECT_TRUE((Gate{GateState::kOpen, 4}.admits(4)));
  EXPECT_FALSE((Gate{GateState::kOpen, 4}.admits(3)));
  EXPECT_FALSE((Gate{GateState::kClosed, 4}.admits(4)));
  EXPECT_FALSE((Gate{GateState::kEnded, 4}.admits(4)));
}

TEST(ProposeTest, TheFirstProposalDecidesAndALaterStepTakesTheWordOver) {
  Word word{};
  bool won = false;
  EXPECT_EQ(Propose(word, 3, Verdict::kPlan, &won).verdict, Verdict::kPlan);
  EXPECT_TRUE(won);
  EXPECT_EQ(Propose(word, 3, Verdict::kFallback, &won).verdict, Verdict::kPlan);
  EXPECT_FALSE(won);
  EXPECT_EQ(Propose(word, 11, Verdict::kFallback, &won).verdict, Verdict::kFallback);
  EXPECT_TRUE(won);
  const VerdictWord lapped = Propose(word, 3, Verdict::kFallback, &won);
  EXPECT_FALSE(won);
  EXPECT_EQ(lapped.next, 12u) << "the caller sees that its step's word is gone";
}

TEST(ProposeTest, StepZeroAndTheLargestSequenceEncodeLikeAnyOther) {
  for (uint64_t s : {uint64_t{0}, kMaxSequence}) {
    Word word{};
    bool won = false;
    const VerdictWord w = Propose(word, s, Verdict::kFallback, &won);
    EXPECT_TRUE(won);
    EXPECT_EQ(w.next, s + 1);
    EXPECT_EQ(w.verdict, Verdict::kFallback);
  }
}

}  // namespace
}  // namespace ultraep

// What ends a wait, and who must not begin: each leaves its note, marks the memory failed, and what
// comes after does nothing.
#include <gtest/gtest.h>

#include "tests/kernels/device/failing_group.h"

namespace ultraep::test {
namespace {

TEST(DeviceFailures, NoVerdictWithinTheBound) {
  InEveryKind([](Group& group) {
    Member& m = group[0];
    m.Verdict(0);
    m.Bound(kShort);
    const std::vector<uint32_t> row(3, 10);
    m.device().Submit(row.data());
    m.device().Await({1, 0});
    EXPECT_EQ(m.device().image().verdict, DeviceVerdict::kFailed);
    EXPECT_EQ(m.device().image().sequence, 1u);
    EXPECT_EQ(m.device().image().replica_count, 0u);
    EXPECT_EQ(m.device().state().resolved, 2u);
    m.Expect({DeviceFailure::kNoVerdict, 0, 0, 1});
  });
}

TEST(DeviceFailures, AwaitWithoutARow) {
  InEveryKind([](Group& group) {
    Member& m = group[0];
    m.Verdict(0);
    m.device().Await({1, 0});
    EXPECT_EQ(m.device().image().verdict, DeviceVerdict::kFailed);
    EXPECT_EQ(m.device().state().resolved, 1u);
    m.Expect({DeviceFailure::kOrder, uint64_t(Kernel::kAwait), 0, 1});
  });
}

TEST(DeviceFailures, APlanThatIsStillAtWorkTakesNoVerdict) {
  InEveryKind([](Group& group) {
    Member& m = group[2];
    m.Verdict(0);
    m.Operate(Kernel::kBeginStream);
    m.Verdict(1);
    m.Expect({DeviceFailure::kOrder, uint64_t(Kernel::kAwait), 0, 1});
  });
}

TEST(DeviceFailures, ADestinationThatDoesNotAcceptOrIsGoneOrElsewhere) {
  for (int how = 0; how < 3; ++how)
    InEveryKind([how](Group& group) {
      Member& m = group[0];
      m.Verdict(0);
      if (how == 0) m.Bound(kShort);
      if (how == 1) m.SetGone(1);
      if (how == 2) group.slots.view().board(1).accepts[0].value = OperationNumber::Make(1, 0xbad);
      m.Operate(Kernel::kBeginStream);
      std::vector<unsigned char> expected = group.slots.Bytes(1);
      expected[offsetof(SlotBoard, voided)] = 1;  // all ranks learn it
      m.Stream();
      EXPECT_EQ(group.slots.Bytes(1), expected);
      m.Expect({DeviceFailure::kNotAccepted, 1, 0, 0});
    });
}

TEST(DeviceFailures, CopyEnginesAreNotStartedForARankThatIsGone) {
  InEveryKind([](Group& group) {
    Member& m = group[0];
    m.Verdict(0);
    m.SetGone(1);
    m.Operate(Kernel::kBeginStream);
    m.Operate(Kernel::kAwaitAccepted);
    const std::vector<unsigned char> before = group.slots.Bytes(1);
    const SignalArguments a{&m.device().state(), m.device().plan(), 0, 1};
    m.device().Run({1, 2}, Kernel::kSignal, &a);
    EXPECT_EQ(group.slots.Bytes(1), before);
    m.Expect({DeviceFailure::kNotAccepted, 1, 0, 0});
  });
}

TEST(DeviceFailures, ChunksThatDoNotComeToARelayOrToASlot) {
  for (const bool relay : {true, false})
    for (const bool gone : {true, false})
      InEveryKind([=](Group& group) {
        // Rank 0 is upstream of both; it is rank 1's sender, and that one's is rank 2's.
        Member& m = group[relay ? 1 : 2];
        for (uint32_t r = 1; r < 3; ++r) group[r].Verdict(0);
        if (gone)
          m.SetGone(0);
        else
          m.Bound(kShort);
        for (uint32_t r = 1; r < 3; ++r) group[r].Operate(Kernel::kBeginStream);
        if (relay)
          m.Stream();
        else
          m.Operate(Kernel::kArrive);
        // Which chunk of a run is a relay's first depends on the team that is first.
        FailureNote& note = m.device().head().failure;
        EXPECT_LT(note.b, 2u);
        if (relay) note.b = 0;
        m.Expect({DeviceFailure::kNoChunk, relay ? 0u : 1u, 0, 0});
      });
}

// What a rank sent before it went counts.
TEST(DeviceFailures, ChunksOfARankThatHasGoneAreTaken) {
  InEveryKind([](Group& group) {
    group.Each([](Member& m) {
      m.Verdict(0);
      m.Operate(Kernel::kBeginStream);
      m.Stream();
    });
    for (uint32_t r = 1; r < 3; ++r) {
      group[r].SetGone(0);
      group[r].Operate(Kernel::kArrive);
      EXPECT_EQ(group[r].device().TakeFailure(), Failure{});
      EXPECT_EQ(group[r].device().head().totals.arrivals, 1u);
    }
  });
}

TEST(DeviceFailures, AStopEndsWaitsAndKeepsOperationsFromBeginning) {
  for (int where = 0; where < 3; ++where)
    InEveryKind([where](Group& group) {
      Member& m = group[where == 0 ? 0 : 1];
      m.Verdict(0);
      if (where < 2) m.Operate(Kernel::kBeginStream);
      m.Stop();
      if (where == 0) m.Stream();
      if (where == 1) m.Operate(Kernel::kArrive);
      if (where == 2) m.Operate(Kernel::kBeginStream);
      EXPECT_EQ(m.device().plan()->stream.active, where < 2);
      m.Expect({DeviceFailure::kStopped, where == 0 ? 1u : 0u, 0, 0});
    });
}

TEST(DeviceFailures, ASlotSetThatIsInUse) {
  InEveryKind([](Group& group) {
    Member& m = group[2];
    m.Verdict(0);
    m.Operate(Kernel::kBeginStream, 0, 1);
    m.Verdict(1, 1);
    m.Operate(Kernel::kBeginStream, 1, 1);
    EXPECT_FALSE(m.device().plan(1)->stream.active);
    m.Expect({DeviceFailure::kSetInUse, 1, 0, 1});
  });
}

TEST(DeviceFailures, StreamsOutOfOrder) {
  const auto order = [](uint64_t kernel, uint64_t sequence) {
    return Failure{DeviceFailure::kOrder, kernel, 0, sequence};
  };
  InEveryKind([&](Group& group) {
    Member& m = group[2];  // it sends nothing
    m.Verdict(0);
    m.Verdict(1, 1);
    m.Operate(Kernel::kBeginStream, 1);
    m.Operate(Kernel::kBeginStream, 0, 1);  // a forward stream of the step before
    EXPECT_FALSE(m.device().plan(0)->stream.active);
    m.Expect(order(uint64_t(Kernel::kBeginStream), 0));
  });
  InEveryKind([&](Group& group) {
    Member& m = group[2];
    m.Verdict(0);
    m.Operate(Kernel::kBeginStream, 0, 2);  // there are two sets
    m.Expect(order(uint64_t(Kernel::kBeginStream), 0));
  });
  InEveryKind([&](Group& group) {
    Member& m = group[2];
    m.Verdict(0);
    m.Operate(Kernel::kBeginStream);
    m.Operate(Kernel::kBeginStream, 0, 1);  // again, without a release between
    m.Expect(order(uint64_t(Kernel::kBeginStream), 0));
  });
}

TEST(DeviceFailures, GradientsOutOfOrder) {
  for (const Kernel kernel : {Kernel::kPrepare, Kernel::kPublish})
    for (const bool begun : {false, true})
      InEveryKind([=](Group& group) {
        Member& m = group[2];
        m.Verdict(0);
        if (begun) m.Operate(Kernel::kBeginStream);
        if (kernel == Kernel::kPrepare && begun) {  // while the reduction of before is under way
          m.Prepare();
          m.Operate(Kernel::kPublish);
        }
        if (kernel == Kernel::kPrepare)
          m.Prepare();
        else
          m.Operate(Kernel::kPublish);
        m.Expect({DeviceFailure::kOrder, uint64_t(kernel), 0, 0});
      });
}

TEST(DeviceFailures, GradientsThatAreNotPublished) {
  for (int how = 0; how < 3; ++how)
    InEveryKind([how](Group& group) {
      group.Forward(0);
      group[0].Prepare();
      group[0].Operate(Kernel::kPublish);
      if (how == 0) group[0].Bound(kShort);
      if (how == 1) group[0].SetGone(2);
      if (how == 2)
        group.slots.view().gradient_words(2, 0, 0).ready.value = OperationNumber::Make(9, 1);
      if (how > 0) {  // rank 1 has
        group[1].Prepare();
        group[1].Operate(Kernel::kPublish);
      }
      group[0].Reduce();
      const Failure failure = group[0].device().TakeFailure();
      EXPECT_EQ(failure, (Failure{DeviceFailure::kNoGradient, how ? 2u : 1u, 0, 0}));
      EXPECT_TRUE(group[0].failed());
      EXPECT_EQ(group[0].device().head().totals.reductions, 0u);
      group[0].CheckEnds();
    });
}

TEST(DeviceFailures, GradientsThatAreNotTaken) {
  for (int how = 0; how < 3; ++how)
    InEveryKind([how](Group& group) {
      group.Forward(0);
      group.Each([](Member& m) {
        m.Prepare();
        m.Operate(Kernel::kPublish);
        m.Operate(Kernel::kEndReduce);
        m.Operate(Kernel::kRelease);
      });
      Member& m = group[1];
      group.Forward(1);
      if (how == 0) m.Bound(kShort);
      if (how == 1) m.SetGone(0);
      if (how == 2)
        group.slots.view().gradient_words(1, 0, 0).taken.value = OperationNumber::Make(9, 1);
      m.Prepare();
      EXPECT_FALSE(m.device().plan()->stream.prepared);
      EXPECT_EQ(m.device().TakeFailure(), (Failure{DeviceFailure::kNotTaken, 0, 0, 1}));
      EXPECT_TRUE(m.failed());
      m.CheckEnds();
    });
}

TEST(DeviceFailures, TheFirstNoteStays) {
  InEveryKind([](Group& group) {
    Member& m = group[2];
    m.Verdict(0);
    m.Operate(Kernel::kBeginStream, 0, 2);
    // Of no memory: it would have a note of its own.
    const std::vector<int32_t> ids = {77};
    std::vector<int32_t> physical(1);
    m.device().state().has_memory = 0;
    const RouteArguments a{&m.device().state(), m.device().plan(), ids.data(), physical.data(), 1};
    m.device().Run({1, 0}, Kernel::kRouteIds, &a);
    EXPECT_EQ(m.device().TakeFailure(),
              (Failure{DeviceFailure::kOrder, uint64_t(Kernel::kBeginStream), 0, 0}));
    EXPECT_EQ(m.device().TakeFailure(), Failure{});
  });
}

// A new generation begins with clean books.
TEST(DeviceFailures, AnotherMemoryGoesOn) {
  InEveryKind([](Group& group) {
    Member& m = group[2];
    m.Verdict(0);
    m.Stop();
    m.Operate(Kernel::kBeginStream);
    EXPECT_EQ(m.device().TakeFailure().code, DeviceFailure::kStopped);
    const HeapSlots other(FailingConfig());
    m.device().Memory(0, 6, other.view().base);
    m.device().Submit(Chain().row(2));
    m.device().Verdict(MakeImage(FailingConfig(), Chain(), 2, {1, 6, 0, 1}));
    m.device().Await({1, 0});
    m.Operate(Kernel::kBeginStream);
    EXPECT_TRUE(m.device().plan()->stream.active);
    EXPECT_EQ(other.view().board(2).accepts[0].value.load(),
              OperationHistory().Issue(1, OperationKind::kForward, 0));
    EXPECT_EQ(m.device().head().begun[0].value.load(), 1u);
    EXPECT_EQ(m.device().head().begun[kMemory].value.load(), 0u);
  });
}

}  // namespace
}  // namespace ultraep::test

// Recordings as a daemon hands them out, over a real socket beside real ranks.
#include <sys/stat.h>

#include "protocol/trace_ring.h"
#include "protocol/transport/mapping.h"
#include "tests/support/operators_fixture.h"

namespace ultraep {
namespace {

using namespace test;

class RecordingTest : public OperatorsTest {};

TEST_F(RecordingTest, AUsersRingsHaveALimit) {
  TestDaemon daemon(socket_);
  const Descriptor a = JoinAlone("a"), b = JoinAlone("b");
  const auto ask = [&](const Descriptor& fd, const char* group, uint64_t ring_bytes) {
    TraceRequest request;
    SetText(request.group, group);
    request.ring_bytes = ring_bytes;
    SendMessage(fd.get(), request);
  };
  // The daemon hears of the groups and of this in one order only if it has heard of them.
  while (daemon.view.Read().groups.size() < 2)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const Descriptor first = Greet(), second = Greet();
  ask(first, "a", uint64_t{129} << 20);  // 256 MiB
  TraceStarted started;
  ASSERT_TRUE(Await(first, &started));
  ask(second, "b", 0);
  EXPECT_NE(RefusalOf(second).find("the limit is 256 MiB"), std::string::npos);
}

TEST_F(RecordingTest, StepsThatARecordingMissedStayCountedAfterItsEnd) {
  TestDaemon daemon(socket_);
  JoinBoth();
  {
    const Descriptor fd = Greet();
    TraceRequest request;
    request.ring_bytes = 1;  // two steps
    SendMessage(fd.get(), request);
    TraceStarted started;
    ASSERT_TRUE(Await(fd, &started));
    RunSteps(0, 20);
  }
  StatusDaemon status;
  for (int i = 0; i < 1000; ++i) {
    AllGroups(&status);
    if (!status.traces) break;
  }
  EXPECT_EQ(status.traces, 0u);
  EXPECT_GT(status.trace_dropped, 10u);
}

TEST_F(RecordingTest, ARingGivesItsMemoryBackWhenItsRecordingEndsAlsoIfItIsKeptMapped) {
  TestDaemon daemon(socket_);
  JoinBoth();
  std::vector<Descriptor> kept;
  for (int i = 0; i < 8; ++i) {
    Packet packet;
    TraceStarted started;
    for (int tries = 0; tries < 1000; ++tries) {
      Descriptor fd = Greet();
      TraceRequest request;
      request.ring_bytes = uint64_t{64} << 20;
      SendMessage(fd.get(), request);
      ASSERT_EQ(ReceivePacket(fd.get(), 0, &packet), Receive::kPacket);
      if (As(packet.bytes, packet.size, &started)) break;
      std::this_thread::sleep_for(
          std::chrono::milliseconds(10));  // the last one's end is on its way
    }
    ASSERT_EQ(packet.descriptors.size(), 1u);
    kept.push_back(std::move(packet.descriptors[0]));
  }
  const auto blocks = [&] {
    uint64_t bytes = 0;
    for (const Descriptor& ring : kept) {
      struct stat s;
      EXPECT_EQ(fstat(ring.get(), &s), 0);
      bytes += uint64_t(s.st_blocks) * 512;
    }
    return bytes;
  };
  for (int i = 0; i < 1000 && blocks() > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(blocks(), 0u);
}

TEST_F(RecordingTest, ARecordingGetsTheStepsFromThenOnAndEndsWithItsConnection) {
  TestDaemon daemon(socket_);
  JoinBoth();
  RunSteps(0, 3);
  Descriptor fd = Greet();
  TraceRequest request;
  SetText(request.group, "group");
  SendMessage(fd.get(), request);
  Packet packet;
  TraceStarted started;
  ASSERT_EQ(ReceivePacket(fd.get(), 0, &packet), Receive::kPacket);
  ASSERT_TRUE(As(packet.bytes, packet.size, &started));
  ASSERT_EQ(packet.descriptors.size(), 1u);
  EXPECT_EQ(started.config.ranks, 2u);
  EXPECT_EQ(started.epsilon_ppm, daemon.Defaults().plan.epsilon_ppm);

  Descriptor second = Greet();
  SendMessage(second.get(), request);
  EXPECT_NE(RefusalOf(second).find("recorded already"), std::string::npos);

  RunSteps(3, 5);
  Mapping mapping;
  ASSERT_EQ(
      mapping.Map(packet.descriptors[0].get(), 0, sizeof(TraceRing) + started.ring_bytes, true),
      "");
  const auto& ring = *reinterpret_cast<const TraceRing*>(mapping.base());
  TraceRecord record;
  for (int i = 0; i < 1000 && ring.head.value.load() < sizeof record; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CopyFromShared(&record, ring.data(), sizeof record);
  EXPECT_EQ(record.sequence, 3u);
  EXPECT_EQ(record.replicas, 1u);
  EXPECT_EQ(record.certificate.peak_before, 102u);
  const auto* load = reinterpret_cast<const uint32_t*>(ring.data() + sizeof record);
  EXPECT_EQ(load[0], 50u);

  fd.reset();
  Descriptor third = Greet();  // once the daemon has seen the first go
  for (int i = 0; i < 1000; ++i) {
    SendMessage(third.get(), request);
    if (Await(third, &started)) break;
    third = Greet();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(started.config.ranks, 2u);
}

TEST_F(RecordingTest, WhatCannotBeRecordedIsRefusedSayingWhatThereIs) {
  TestDaemon daemon(socket_);
  Descriptor none = Greet();
  SendMessage(none.get(), TraceRequest());
  EXPECT_NE(RefusalOf(none).find("there are none"), std::string::npos);
  JoinBoth();
  TraceRequest request;
  SetText(request.group, "grup");
  Descriptor wrong = Greet();
  SendMessage(wrong.get(), request);
  EXPECT_NE(RefusalOf(wrong).find("there are: group"), std::string::npos);
  request = {};
  request.ring_bytes = kTraceRingMost + 1;
  Descriptor big = Greet();
  SendMessage(big.get(), request);
  EXPECT_NE(RefusalOf(big).find("the limit is"), std::string::npos);
}

TEST_F(RecordingTest, ARecordingsConnectionEndsWithItsGroup) {
  TestDaemon daemon(socket_);
  JoinBoth();
  Descriptor fd = Greet();
  SendMessage(fd.get(), TraceRequest());
  TraceStarted started;
  ASSERT_TRUE(Await(fd, &started));
  for (auto* client : std::exchange(clients_, {})) ultraep_detach(client);
  EXPECT_FALSE(Await(fd, &started));
}

}  // namespace
}  // namespace ultraep

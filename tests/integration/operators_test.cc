// What ultraepctl asks of a daemon, over a real socket beside real ranks.
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <set>

#include "protocol/trace_ring.h"
#include "protocol/transport/mapping.h"
#include "tests/support/attach_fixture.h"

namespace ultraep {
namespace {

using namespace test;

class OperatorsTest : public AttachTest {
 protected:
  Descriptor Greet() {
    Descriptor fd = Connect();
    const timeval limit{20, 0};  // a test that waits in vain fails
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    SendMessage(fd.get(), Hello());
    Welcome welcome;
    EXPECT_TRUE(Await(fd, &welcome));
    return fd;
  }
  // One answer's events.
  EventsEnd Ask(const Descriptor& fd, uint32_t flags, std::vector<Event>* events) {
    EventsRequest request;
    request.flags = flags;
    SendMessage(fd.get(), request);
    Packet packet;
    EventsEnd end;
    while (ReceivePacket(fd.get(), 0, &packet) == Receive::kPacket) {
      Event event;
      if (As(packet.bytes, packet.size, &end)) return end;
      EXPECT_TRUE(As(packet.bytes, packet.size, &event));
      events->push_back(event);
    }
    ADD_FAILURE() << "the connection ended";
    return end;
  }
  static size_t CountKind(const std::vector<Event>& events, EventKind kind) {
    return size_t(std::count_if(events.begin(), events.end(),
                                [&](const Event& e) { return e.kind == uint16_t(kind); }));
  }
  // Asks until events of the kind have come.
  std::vector<Event> Until(const Descriptor& fd, uint32_t flags, EventKind kind, size_t count = 1) {
    std::vector<Event> events;
    for (int i = 0; i < 1000 && CountKind(events, kind) < count; ++i) {
      if (!Ask(fd, flags, &events).more) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_GE(CountKind(events, kind), count);
    return events;
  }
  void JoinBoth() {
    for (uint32_t r = 0; r < 2; ++r) {
      ultraep_group_config config = Config(r);
      ultraep_client* client = Attach();
      EXPECT_EQ(ultraep_join(client, &config, 0), ULTRAEP_OK) << ultraep_last_error();
    }
    for (auto* client : clients_) EXPECT_EQ(AwaitPhase(client, ULTRAEP_OPEN), ULTRAEP_OPEN);
  }
  void RunSteps(uint64_t begin, uint64_t end) {
    std::thread other([&] {
      for (uint64_t s = begin; s < end; ++s) Step(clients_[1], s);
    });
    for (uint64_t s = begin; s < end; ++s) Step(clients_[0], s);
    other.join();
  }
  // A group of one rank that only joins, kept by its connection.
  Descriptor JoinAlone(const std::string& name) {
    Descriptor fd = Greet();
    ultraep::Join join;
    SetText(join.config.name, name);
    join.config.ranks = join.config.experts = 2;
    join.config.slots = join.config.layers = join.config.window = join.config.slot_sets = 1;
    join.config.step_timeout_ns = 1'000'000'000;
    SendMessage(fd.get(), join);
    return fd;
  }
  // All groups as ultraepctl reads them: several answers.
  std::vector<StatusGroup> AllGroups(StatusDaemon* daemon) {
    Descriptor fd = Greet();
    std::vector<StatusGroup> groups;
    StatusRequest request;
    do {
      SendMessage(fd.get(), request);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));  // a reader who takes its time
      Packet packet;
      StatusEnd end;
      EXPECT_TRUE(Await(fd, daemon));
      while (ReceivePacket(fd.get(), 0, &packet) == Receive::kPacket &&
             !As(packet.bytes, packet.size, &end)) {
        StatusGroup group;
        EXPECT_TRUE(As(packet.bytes, packet.size, &group));
        groups.push_back(group);
      }
      request.first = end.next;
    } while (request.first);
    return groups;
  }
  StatusGroup Group() {
    Descriptor fd = Greet();
    SendMessage(fd.get(), StatusRequest());
    StatusGroup group;
    EXPECT_TRUE(Await(fd, &group));
    return group;
  }
};

TEST_F(OperatorsTest, EventsTellAGroupsLifeInItsOrder) {
  TestDaemon daemon(socket_);
  Descriptor fd = Greet();
  std::vector<Event> none;
  Ask(fd, 0, &none);
  EXPECT_TRUE(none.empty());
  JoinBoth();
  std::vector<Event> events = Until(fd, 0, EventKind::kOpened);
  ASSERT_GE(events.size(), 4u);
  EXPECT_EQ(events[0].kind, uint16_t(EventKind::kCreated));
  EXPECT_EQ(GetText(events[0].group), "group");
  EXPECT_EQ(CountKind(events, EventKind::kJoined), 2u);
  EXPECT_EQ(events.back().kind, uint16_t(EventKind::kOpened));
  ultraep_detach(clients_.back());
  clients_.pop_back();
  events = Until(fd, 0, EventKind::kOver);
  EXPECT_EQ(CountKind(events, EventKind::kLeft), 1u);
  ultraep_detach(clients_.back());
  clients_.pop_back();
  Until(fd, 0, EventKind::kClosed);
}

TEST_F(OperatorsTest, VerdictsComeWhenAskedForAndHistoryIsKept) {
  TestDaemon daemon(socket_);
  JoinBoth();
  RunSteps(0, 5);
  Descriptor all = Greet();
  const auto flags = EventsRequest::kVerdicts | EventsRequest::kHistory;
  const std::vector<Event> events = Until(all, flags, EventKind::kPlan, 5);
  EXPECT_EQ(CountKind(events, EventKind::kJoined), 2u);
  const auto plan = std::find_if(events.begin(), events.end(), [](const Event& e) {
    return e.kind == uint16_t(EventKind::kPlan);
  });
  EXPECT_EQ(plan->peak_before, 102u);  // both ranks send 50 + 1 to rank 0
  EXPECT_EQ(plan->tokens, 106u);
  EXPECT_LE(plan->peak, 54u);
  Descriptor now = Greet();
  std::vector<Event> later;
  Ask(now, EventsRequest::kVerdicts, &later);
  EXPECT_TRUE(later.empty());
  RunSteps(5, 6);
  Until(now, EventsRequest::kVerdicts, EventKind::kPlan);
}

TEST_F(OperatorsTest, AnAnswerIsShortAndSaysThatThereIsMore) {
  TestDaemon daemon(socket_);
  JoinBoth();
  RunSteps(0, 100);
  Descriptor fd = Greet();
  std::vector<Event> events;
  EXPECT_EQ(Ask(fd, EventsRequest::kVerdicts | EventsRequest::kHistory, &events).more, 1u);
  EXPECT_EQ(events.size(), 64u);
}

TEST_F(OperatorsTest, RefusalsAreEventsAndCountedByKind) {
  TestDaemon daemon(socket_);
  Descriptor fd = Greet();
  std::vector<Event> events;
  Ask(fd, 0, &events);
  Descriptor stranger = Connect();
  SendMessage(stranger.get(), StatusRequest());
  EXPECT_NE(RefusalOf(stranger).find("Hello"), std::string::npos);
  events = Until(fd, 0, EventKind::kRefused);
  EXPECT_NE(GetText(events.back().text).find("Hello"), std::string::npos);
  SendMessage(fd.get(), StatusRequest());
  StatusDaemon status;
  ASSERT_TRUE(Await(fd, &status));
  EXPECT_EQ(status.refused[uint32_t(RefusalKind::kMessage)], 1u);
}

TEST_F(OperatorsTest, RanksSayHowTheyResolvedTheirStepsAndHowLongItTook) {
  TestDaemon daemon(socket_);
  ultraep_group_config config = Config(0);
  ultraep_client* first = Attach();
  ASSERT_EQ(ultraep_join(first, &config, 0), ULTRAEP_OK);
  EXPECT_EQ(Step(first, 0), ULTRAEP_DECLINED);  // alone
  EXPECT_EQ(Step(first, 1), ULTRAEP_DECLINED);
  ultraep_client* second = Attach();
  config = Config(1);
  config.next_sequence = 2;
  ASSERT_EQ(ultraep_join(second, &config, 0), ULTRAEP_OK);
  for (auto* client : clients_) ASSERT_EQ(AwaitPhase(client, ULTRAEP_OPEN), ULTRAEP_OPEN);
  RunSteps(2, 6);
  const StatusGroup group = Group();
  EXPECT_EQ(group.ranks.planned, 8u);
  EXPECT_EQ(group.ranks.declined, 2u);
  EXPECT_EQ(group.ranks.fallback, 0u);
  EXPECT_EQ(group.ranks.verdict.count(), 8u);
  EXPECT_GT(group.ranks.verdict.sum_ns, 0u);
  EXPECT_EQ(group.ranks.stream.count(), 4u);  // rank 1 gets expert 0 in every step
  EXPECT_EQ(group.ranks.route.count(), 8u);
  EXPECT_EQ(group.planning.solve.count(), 4u);
  EXPECT_GT(group.planning.plan.sum_ns, group.planning.solve.sum_ns);
}

// Rank 1 submits well after rank 0: what the ranks are apart is not our time.
TEST_F(OperatorsTest, TheTimeThatRowsTakeIsCountedApartFromThePlans) {
  TestDaemon daemon(socket_);
  JoinBoth();
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    Step(clients_[1], 0);
  });
  Step(clients_[0], 0);
  late.join();
  RunSteps(1, 2);
  const StatusGroup group = Group();
  EXPECT_GE(group.planning.collect.sum_ns, 50'000'000u);
  EXPECT_EQ(group.planning.collect.count(), 2u);
}

TEST_F(OperatorsTest, HoweverManyGroupsThereAreStatusTellsAll) {
  DaemonOptions options = TestDaemon::Defaults();
  options.uid_groups = options.max_connections = options.uid_connections = 300;
  TestDaemon daemon(socket_, options);
  std::vector<Descriptor> members;
  for (int i = 0; i < 150; ++i) members.push_back(JoinAlone("group" + std::to_string(i)));
  StatusDaemon status;
  std::vector<StatusGroup> groups;
  for (int i = 0; i < 500 && groups.size() < 150; ++i) groups = AllGroups(&status);
  EXPECT_EQ(groups.size(), 150u);
  EXPECT_EQ(status.groups, 150u);
  std::set<std::string> names;
  for (const StatusGroup& group : groups) names.insert(GetText(group.config.name));
  EXPECT_EQ(names.size(), 150u);
}

// The kernel tells of a process's end before its last message is read.
TEST_F(OperatorsTest, AMemberThatLeavesAndEndsAtOnceHasLeft) {
  TestDaemon daemon(socket_);
  Descriptor fd = Greet();
  std::vector<Event> events;
  Ask(fd, 0, &events);
  for (int i = 0; i < 20; ++i) {
    Descriptor members[2] = {JoinAlone("group"), Greet()};
    ultraep::Join second;
    SetText(second.config.name, "group");
    second.config.ranks = second.config.experts = 2;
    second.config.slots = second.config.layers = second.config.window = 1;
    second.config.slot_sets = second.rank = 1;
    second.config.step_timeout_ns = 1'000'000'000;
    SendMessage(members[1].get(), second);
    Joined joined;
    ASSERT_TRUE(Await(members[1], &joined));  // the other's stays unread: its end is a reset
    SendMessage(members[0].get(), Leave());
    members[0].reset();
    SendMessage(members[1].get(), Leave());
    members[1].reset();
  }
  events = Until(fd, 0, EventKind::kLeft, 40);
  EXPECT_EQ(CountKind(events, EventKind::kLeft), 40u);
  EXPECT_EQ(CountKind(events, EventKind::kGone), 0u);
}

TEST_F(OperatorsTest, WhatAClosedGroupDidLastIsStillToldToThoseWhoFollow) {
  TestDaemon daemon(socket_);
  Descriptor fd = Greet();
  std::vector<Event> events;
  Ask(fd, EventsRequest::kVerdicts, &events);
  JoinBoth();
  Until(fd, EventsRequest::kVerdicts, EventKind::kOpened);
  RunSteps(0, 200);
  for (auto* client : std::exchange(clients_, {})) ultraep_detach(client);
  for (int i = 0; i < 1000 && !daemon.view.Read().groups.empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  uint64_t missed = 0;
  for (int i = 0; i < 1000 && CountKind(events, EventKind::kClosed) == 0; ++i)
    missed += Ask(fd, 0, &events).missed;
  for (EventsEnd end; (end = Ask(fd, 0, &events)).more;) missed += end.missed;
  EXPECT_EQ(CountKind(events, EventKind::kPlan), 128u);
  EXPECT_EQ(missed, 72u);
  EXPECT_EQ(events.back().sequence, 199u);
}

TEST_F(OperatorsTest, AnOperatorsWrongRequestIsNotCountedAsARanksRefusal) {
  TestDaemon daemon(socket_);
  Descriptor none = Greet();
  SendMessage(none.get(), TraceRequest());
  RefusalOf(none);
  StatusDaemon status;
  AllGroups(&status);
  for (uint32_t kind = 0; kind < kRefusalKinds; ++kind)
    EXPECT_EQ(status.refused[kind], kind == uint32_t(RefusalKind::kOperator) ? 1u : 0u);
}

TEST_F(OperatorsTest, AUsersRingsHaveALimit) {
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

TEST_F(OperatorsTest, StepsThatARecordingMissedStayCountedAfterItsEnd) {
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

// Whoever was handed a ring may keep it: what it holds must not be the daemon's loss.
TEST_F(OperatorsTest, ARingGivesItsMemoryBackWhenItsRecordingEndsAlsoIfItIsKeptMapped) {
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

TEST_F(OperatorsTest, ARecordingGetsTheStepsFromThenOnAndEndsWithItsConnection) {
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

TEST_F(OperatorsTest, WhatCannotBeRecordedIsRefusedSayingWhatThereIs) {
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

TEST_F(OperatorsTest, ARecordingsConnectionEndsWithItsGroup) {
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

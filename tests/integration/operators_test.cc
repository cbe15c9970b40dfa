// What ultraepctl asks of a daemon, over a real socket beside real ranks: status and events.
#include <set>

#include "tests/support/operators_fixture.h"

namespace ultraep {
namespace {

using namespace test;

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

// Whoever was handed a ring may keep it: what it holds must not be the daemon's loss.

}  // namespace
}  // namespace ultraep

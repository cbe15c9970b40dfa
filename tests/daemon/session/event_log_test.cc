#include "daemon/session/event_log.h"

#include <gtest/gtest.h>

namespace ultraep {
namespace {

void Add(EventLog* log, uid_t uid, uint64_t value) {
  log->Add(uid, "group", EventKind::kJoined, [&](Event* event) { event->value = value; });
}

TEST(EventLogTest, AUserReadsItsOwnEventsOnlyAndRootReadsAll) {
  EventLog log;
  Add(&log, 1, 10);
  Add(&log, 2, 20);
  std::vector<Event> events;
  EventLog::Cursors one, root;
  EXPECT_EQ(log.Read(1, false, 9, &one, &events), 0u);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].value, 10u);
  events.clear();
  log.Read(0, true, 9, &root, &events);
  EXPECT_EQ(events.size(), 2u);
  events.clear();
  log.Read(1, false, 9, &one, &events);
  EXPECT_TRUE(events.empty());
}

TEST(EventLogTest, OneUsersEventsPushOutNobodyElses) {
  EventLog log;
  Add(&log, 1, 10);
  for (uint64_t i = 0; i < EventLog::kKept + 5; ++i) Add(&log, 2, i);
  std::vector<Event> events;
  EventLog::Cursors one, two;
  EXPECT_EQ(log.Read(1, false, 9, &one, &events), 0u);
  ASSERT_EQ(events.size(), 1u);
  events.clear();
  EXPECT_EQ(log.Read(2, false, 2 * EventLog::kKept, &two, &events), 5u);
  ASSERT_EQ(events.size(), EventLog::kKept);
  EXPECT_EQ(events[0].value, 5u);
}

TEST(EventLogTest, WhoSkipsReadsWhatComesAfterwardsAlsoOfUsersThatAreNew) {
  EventLog log;
  Add(&log, 1, 10);
  EventLog::Cursors root;
  log.Skip(0, true, &root);
  Add(&log, 1, 11);
  Add(&log, 2, 20);
  std::vector<Event> events;
  EXPECT_EQ(log.Read(0, true, 1, &root, &events), 0u);
  EXPECT_EQ(log.Read(0, true, 1, &root, &events), 0u);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].value, 11u);
  EXPECT_EQ(events[1].value, 20u);
}

}  // namespace
}  // namespace ultraep

// Operators beside real ranks: what ultraepctl says to a daemon, said by hand.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/attach_fixture.h"

namespace ultraep::test {

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

}  // namespace ultraep::test

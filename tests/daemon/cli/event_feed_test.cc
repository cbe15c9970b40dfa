// The feed at the end of a wire whose other end this test holds: what was overwritten is counted.
#include "daemon/cli/event_feed.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace ultraep {
namespace {

// Answers one connection: a request after the other with its number of missed events, and an event.
void Answer(int listener, const std::vector<uint64_t>& missed) {
  const Descriptor peer(accept(listener, nullptr, nullptr));
  Packet packet;
  ReceivePacket(peer.get(), 0, &packet);  // Hello
  SendMessage(peer.get(), Welcome());
  for (size_t i = 0; i < missed.size(); ++i) {
    ReceivePacket(peer.get(), 0, &packet);
    Event event;
    event.time_ns = i + 1;
    EventsEnd end;
    end.missed = missed[i];
    SendMessage(peer.get(), event);
    SendMessage(peer.get(), end);
  }
}

TEST(EventFeedTest, MissedEventsAreCountedSinceTheFirstAnswer) {
  std::string directory = testing::TempDir() + "feed-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = directory + "/s";
  ASSERT_LT(path.size(), sizeof address.sun_path);
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const Descriptor listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  std::thread daemon([&] { Answer(listener.get(), {1000, 5, 0, 7}); });
  DaemonConnection connection;
  EventFeed feed(false, true);
  EXPECT_EQ(connection.Connect(path), "");
  feed.Connected();
  std::vector<Event> events;
  bool more = true;
  EXPECT_EQ(feed.Read(&connection, &events, &more), "");
  EXPECT_FALSE(more);
  EXPECT_EQ(feed.TakeMissed(), 0u);  // before anybody asked
  for (int i = 0; i < 3; ++i) EXPECT_EQ(feed.Read(&connection, &events, &more), "");
  EXPECT_EQ(feed.TakeMissed(), 12u);
  EXPECT_EQ(feed.TakeMissed(), 0u);
  EXPECT_EQ(events.size(), 4u);
  daemon.join();
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace ultraep

// Members of groups with slots on GPUs that speak the protocol themselves.
#pragma once

#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "protocol/device_backend.h"
#include "tests/support/attach_fixture.h"

namespace ultraep::test {

class DeviceMembersTest : public AttachTest {
 protected:
  static ultraep::Join Request(uint32_t rank, uint32_t ranks,
                               MemoryKind memory = MemoryKind::kCuda) {
    ultraep::Join join;
    SetText(join.config.name, "device");
    join.config.ranks = join.config.experts = ranks;
    join.config.slots = join.config.layers = join.config.window = join.config.slot_sets = 1;
    join.config.shard_count = 1;
    join.config.shard_bytes[0] = 1 << 20;
    join.config.memory = memory;
    join.config.step_timeout_ns = 1'000'000'000;
    join.rank = rank;
    SetText(join.device.name, "NVIDIA H100");
    join.device.uuid[0] = static_cast<unsigned char>(1 + rank);
    join.device.architecture = 90;
    return join;
  }
  Descriptor Enter(const ultraep::Join& join) {
    Descriptor fd = Connect();
    Packet packet;
    SendMessage(fd.get(), Hello());
    EXPECT_EQ(ReceivePacket(fd.get(), 0, &packet), Receive::kPacket);  // Welcome
    SendMessage(fd.get(), join);
    return fd;
  }
  // What came with the next Joined; empty when the connection ends before.
  static std::vector<Descriptor> AwaitJoined(const Descriptor& fd, Joined* joined) {
    Packet packet;
    while (ReceivePacket(fd.get(), 0, &packet) == Receive::kPacket)
      if (As(packet.bytes, packet.size, joined)) return std::move(packet.descriptors);
    return {};
  }
  // Answered when the daemon has handled everything before.
  StatusDaemon Status() {
    Descriptor fd = Connect();
    SendMessage(fd.get(), Hello());
    SendMessage(fd.get(), StatusRequest());
    StatusDaemon status;
    EXPECT_TRUE(Await(fd, &status));
    return status;
  }
  // What the daemon does in its own time.
  template <class Condition>
  static bool Settles(Condition condition) {
    for (int i = 0; i < 500 && !condition(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return condition();
  }
  static void ExpectText(const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts)
      EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  }
};

}  // namespace ultraep::test

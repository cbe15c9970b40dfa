// A real daemon inside the test process, clients through the C ABI, and bare connections that say
// what libultraep never would.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "plugin/api/ultraep.h"
#include "protocol/transport/seqpacket.h"
#include "tests/support/test_daemon.h"

namespace ultraep::test {

constexpr int64_t kSecond = 1'000'000'000;

class AttachTest : public testing::Test {
 protected:
  static ultraep_group_config Config(uint32_t rank, uint32_t ranks = 2) {
    ultraep_group_config c{};
    c.struct_size = sizeof c;
    c.rank = rank;
    c.group_name = "group";
    c.ranks = ranks;
    c.experts = ranks * 2;
    c.slots = 1;
    c.layers = 1;
    c.window = 2;
    c.slot_sets = 1;
    c.shard_count = 1;
    c.shard_bytes[0] = 4096;
    c.step_timeout_ns = 20 * kSecond;
    return c;
  }
  ultraep_client* Attach() {
    ultraep_attach_options options{sizeof options, socket_.c_str()};
    ultraep_client* client = nullptr;
    EXPECT_EQ(ultraep_attach(&options, &client), ULTRAEP_OK) << ultraep_last_error();
    clients_.push_back(client);
    return client;
  }
  ultraep_phase AwaitPhase(ultraep_client* client, ultraep_phase phase) {
    ultraep_client_info info{};
    for (int i = 0; i < 1000 && info.phase != phase; ++i) {
      EXPECT_EQ(ultraep_client_state(client, &info), ULTRAEP_OK);
      if (info.phase != phase) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    text_ = info.text;
    return info.phase;
  }
  ultraep_verdict Step(ultraep_client* client, uint64_t sequence) {
    const uint32_t row[4] = {50, 1, 1, 1};
    EXPECT_EQ(ultraep_submit_load(client, sequence, 0, 0, row, 4), ULTRAEP_OK)
        << ultraep_last_error();
    ultraep_plan* plan = nullptr;
    EXPECT_EQ(ultraep_await_verdict(client, sequence, -1, &plan), ULTRAEP_OK)
        << ultraep_last_error();
    int32_t ids[53] = {}, physical[53];
    for (int32_t e = 1; e < 4; ++e) ids[49 + e] = e;
    EXPECT_EQ(ultraep_route(plan, ids, 53, 1, physical), ULTRAEP_OK) << ultraep_last_error();
    ultraep_plan_info info{};
    EXPECT_EQ(ultraep_plan_get_info(plan, &info), ULTRAEP_OK);
    static const unsigned char weights[4096] = {};
    const void* mains[2] = {weights, weights};
    EXPECT_EQ(ultraep_stream_weights(plan, 0, mains), ULTRAEP_OK) << ultraep_last_error();
    EXPECT_EQ(ultraep_release(plan, 10 * kSecond), ULTRAEP_OK) << ultraep_last_error();
    ultraep_plan_free(plan);
    return info.verdict;
  }
  // A bare connection, to say what libultraep never would.
  Descriptor Connect() {
    Descriptor fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, socket_.c_str());
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  // The next message of this type, passing over others; false when the connection ends before.
  template <class T>
  static bool Await(const Descriptor& fd, T* message) {
    Packet packet;
    while (ReceivePacket(fd.get(), 0, &packet) == Receive::kPacket)
      if (As(packet.bytes, packet.size, message)) return true;
    return false;
  }
  std::string RefusalOf(const Descriptor& fd) {
    Refused refused;
    return Await(fd, &refused) ? GetText(refused.text) : "closed without a word";
  }
  void TearDown() override {
    for (auto* c : clients_) ultraep_detach(c);
  }

  TemporaryDirectory directory_;
  const std::string socket_ = directory_.path() + "/daemon.sock";
  std::vector<ultraep_client*> clients_;
  std::string text_;
};

}  // namespace ultraep::test

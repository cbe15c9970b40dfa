// `ultraepctl status`: asks the running daemon through the attach socket and prints what it says.
#include <poll.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "daemon/cli/command.h"
#include "daemon/cli/flags.h"
#include "nlohmann/json.hpp"
#include "protocol/boards.h"
#include "protocol/message.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kAnswerMs = 5000;

struct Status {
  StatusDaemon daemon;
  std::vector<StatusGroup> groups;
};

std::string SocketPath() {
  std::string path = absl::GetFlag(FLAGS_socket);
  if (path.empty() && std::getenv("ULTRAEP_SOCKET")) path = std::getenv("ULTRAEP_SOCKET");
  return path.empty() ? "/run/ultraep/ultraepd.sock" : path;
}

// Waits for one packet of the daemon; empty when it is there.
std::string Receive(int socket, Packet* packet) {
  pollfd wait{socket, POLLIN, 0};
  if (poll(&wait, 1, kAnswerMs) == 0)
    return absl::StrFormat("the daemon has not answered for %d ms", kAnswerMs);
  if (ReceivePacket(socket, 0, packet) != ultraep::Receive::kPacket)
    return "the daemon closed the connection";
  if (std::string wrong = CheckHead(packet->bytes, packet->size); !wrong.empty()) return wrong;
  Refused refused;
  if (As(packet->bytes, packet->size, &refused)) return GetText(refused.text);
  return "";
}

std::string Ask(const std::string& path, Status* status) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return absl::StrFormat("the path has %d bytes, the limit is 107", path.size());
  std::memcpy(address.sun_path, path.c_str(), path.size());
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address))
    return absl::StrFormat("%s; is ultraepd running? Start it or give --socket",
                           std::strerror(errno));
  Hello hello;
  SetText(hello.build, kBuildVersion);
  Packet packet;
  SendMessage(socket.get(), hello);
  if (std::string wrong = Receive(socket.get(), &packet); !wrong.empty()) return wrong;
  SendMessage(socket.get(), StatusRequest());
  if (std::string wrong = Receive(socket.get(), &packet); !wrong.empty()) return wrong;
  if (!As(packet.bytes, packet.size, &status->daemon)) return "unexpected answer";
  for (;;) {
    if (std::string wrong = Receive(socket.get(), &packet); !wrong.empty()) return wrong;
    StatusGroup group;
    StatusEnd end;
    if (As(packet.bytes, packet.size, &end)) return "";
    if (!As(packet.bytes, packet.size, &group)) return "unexpected answer";
    status->groups.push_back(group);
  }
}

const char* GateName(uint32_t state) {
  static constexpr const char* kNames[] = {"closed", "open", "ended", "failed", "dead"};
  return state < 5 ? kNames[state] : "unknown";
}

const char* MemberName(uint8_t state) {
  static constexpr const char* kNames[] = {"absent", "joined", "ready", "left", "gone", "fenced"};
  return state < 6 ? kNames[state] : "unknown";
}

// How far the peaks are above what any plan could have reached.
double MeanGap(const GroupCounters& c) {
  return c.lower_bound_sum ? double(c.peak_sum) / double(c.lower_bound_sum) - 1 : 0.0;
}

double MeanImbalance(const GroupCounters& c, uint64_t peak_sum, uint32_t ranks) {
  return c.tokens_sum ? double(peak_sum) * ranks / double(c.tokens_sum) : 1.0;
}

double GbPerSecond(uint64_t bytes, uint64_t ns) { return ns ? double(bytes) / double(ns) : 0.0; }
double MeanUs(uint64_t ns, uint64_t count) {
  return count ? double(ns) / double(count) / 1e3 : 0.0;
}

// Seconds are summed over threads; means are per rank and operation that it had a part in.
Json TransfersJson(const TransferTotals& t) {
  return {{"weights",
           {{"sends", t.sends},
            {"arrivals", t.arrivals},
            {"transfers", t.transfers},
            {"bytes", t.sent_bytes},
            {"relayed_bytes", t.relayed_bytes},
            {"gb_s_per_thread", GbPerSecond(t.sent_bytes, t.copy_ns)},
            {"copy_seconds", double(t.copy_ns) / 1e9},
            {"wait_seconds", double(t.send_wait_ns) / 1e9},
            {"mean_send_us", MeanUs(t.send_ns, t.sends)},
            {"mean_arrive_us", MeanUs(t.arrive_ns, t.arrivals)}}},
          {"gradients",
           {{"reductions", t.reductions},
            {"replicas", t.replicas},
            {"bytes", t.reduced_bytes},
            {"gb_s_per_thread", GbPerSecond(t.reduced_bytes, t.add_ns)},
            {"add_seconds", double(t.add_ns) / 1e9},
            {"wait_seconds", double(t.reduce_wait_ns) / 1e9},
            {"mean_reduce_us", MeanUs(t.reduce_ns, t.reductions)},
            {"prepare_seconds", double(t.prepare_ns) / 1e9}}}};
}

Json GroupJson(const StatusGroup& g) {
  const GroupCounters& c = g.counters;
  Json members = Json::array();
  for (uint32_t r = 0; r < g.config.ranks && r < kMaxRanks; ++r)
    members.push_back(MemberName(g.members[r]));
  return {{"name", GetText(g.config.name)},
          {"uid", g.uid},
          {"ranks", g.config.ranks},
          {"experts", g.config.experts},
          {"slots", g.config.slots},
          {"slot_sets", g.config.slot_sets},
          {"window", g.config.window},
          {"gate", GateName(g.gate_state)},
          {"first_planned_step", g.gate_value},
          {"generation", absl::StrFormat("%016x", g.generation)},
          {"generations", g.generations},
          {"members", members},
          {"memory_bytes", g.memory_bytes},
          {"fallback_tokens_min", g.fallback_tokens_min},
          {"steps_planned", c.steps_planned},
          {"steps_fallback", c.steps_fallback},
          {"order_mismatch", c.order_mismatch},
          {"bad_rows", c.bad_rows},
          {"replicas", c.replicas},
          {"imbalance_before", MeanImbalance(c, c.peak_before_sum, g.config.ranks)},
          {"imbalance_after", MeanImbalance(c, c.peak_sum, g.config.ranks)},
          {"imbalance_floor", MeanImbalance(c, c.lower_bound_sum, g.config.ranks)},
          {"gap", MeanGap(c)},
          {"last_imbalance_before", c.last_imbalance_before},
          {"last_imbalance_after", c.last_imbalance_after},
          {"solve_us", {{"p50", c.solve_p50_ns / 1e3}, {"p99", c.solve_p99_ns / 1e3}}},
          {"transfers", TransfersJson(g.transfers)}};
}

void PrintTable(const std::string& path, const Status& s) {
  std::printf("ultraepd %s  pid %ld  socket %s  up %.0f s  connections %u  refused %lu\n",
              GetText(s.daemon.build).c_str(), long(s.daemon.pid), path.c_str(),
              double(s.daemon.uptime_ns) / 1e9, s.daemon.connections,
              static_cast<unsigned long>(s.daemon.refused));
  if (s.groups.empty()) {
    std::printf("no groups\n");
    return;
  }
  std::printf("%-20s %5s %7s %5s %7s %9s %9s %8s %7s %7s %10s %9s\n", "group", "ranks", "experts",
              "slots", "gate", "planned", "fallback", "replicas", "before", "after", "solve p50",
              "memory");
  for (const StatusGroup& g : s.groups) {
    const GroupCounters& c = g.counters;
    std::printf("%-20s %5u %7u %5u %7s %9lu %9lu %8.1f %7.3f %7.3f %7.1f us %5.0f MiB\n",
                GetText(g.config.name).c_str(), g.config.ranks, g.config.experts, g.config.slots,
                GateName(g.gate_state), static_cast<unsigned long>(c.steps_planned),
                static_cast<unsigned long>(c.steps_fallback),
                c.steps_planned ? double(c.replicas) / double(c.steps_planned) : 0.0,
                MeanImbalance(c, c.peak_before_sum, g.config.ranks),
                MeanImbalance(c, c.peak_sum, g.config.ranks), double(c.solve_p50_ns) / 1e3,
                double(g.memory_bytes) / (1 << 20));
    const TransferTotals& t = g.transfers;
    if (t.sends)
      std::printf(
          "  weights   %.2f GB in %lu transfers, %.1f GB/s per thread, slots complete after "
          "%.0f us\n",
          double(t.sent_bytes) / 1e9, static_cast<unsigned long>(t.transfers),
          GbPerSecond(t.sent_bytes, t.copy_ns), MeanUs(t.arrive_ns, t.arrivals));
    if (t.reductions)
      std::printf(
          "  gradients %.2f GB of %lu replicas, %.1f GB/s per thread, added after %.0f us\n",
          double(t.reduced_bytes) / 1e9, static_cast<unsigned long>(t.replicas),
          GbPerSecond(t.reduced_bytes, t.add_ns), MeanUs(t.reduce_ns, t.reductions));
    for (uint32_t r = 0; r < g.config.ranks && r < kMaxRanks; ++r)
      if (std::string(MemberName(g.members[r])) != "ready")
        std::printf("  rank %u is %s\n", r, MemberName(g.members[r]));
  }
}

int RunStatus(const std::vector<std::string>& positional) {
  if (!positional.empty()) {
    std::fprintf(stderr, "ultraepctl status: unexpected argument '%s'\n", positional[0].c_str());
    return 2;
  }
  const std::string path = SocketPath();
  Status status;
  if (std::string wrong = Ask(path, &status); !wrong.empty()) {
    std::fprintf(stderr, "ultraepctl status: %s: %s\n", path.c_str(), wrong.c_str());
    return 1;
  }
  if (!absl::GetFlag(FLAGS_json)) {
    PrintTable(path, status);
    return 0;
  }
  Json groups = Json::array();
  for (const StatusGroup& g : status.groups) groups.push_back(GroupJson(g));
  const Json out = {{"daemon",
                     {{"version", GetText(status.daemon.build)},
                      {"pid", status.daemon.pid},
                      {"socket", path},
                      {"uptime_seconds", double(status.daemon.uptime_ns) / 1e9},
                      {"connections", status.daemon.connections},
                      {"refused", status.daemon.refused},
                      {"spin_us", status.daemon.spin_us}}},
                    {"groups", groups}};
  std::printf("%s\n", out.dump().c_str());
  return 0;
}

}  // namespace

const Command kStatusCommand = {
    "status", "what the running daemon serves: groups, members, imbalance, fallbacks",
    "usage: ultraepctl status [--socket PATH] [--json]\n\n"
    "Shows the groups of your user (root and the daemon's user see all): members, gate, steps\n"
    "planned and fallen back, mean imbalance before and after, replicas per step, solve time;\n"
    "what weights and gradients moved (means over ranks and operations).\n"
    "The socket is --socket, else $ULTRAEP_SOCKET, else /run/ultraep/ultraepd.sock.\n"
    "Exit status: 0 answered, 1 no daemon or no answer, 2 wrong usage.\n",
    RunStatus};

}  // namespace ultraep

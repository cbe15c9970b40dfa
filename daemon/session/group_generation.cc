#include "daemon/session/group_generation.h"

#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

// Random, so that memory of an earlier daemon is never taken for this one's. 0 means "none".
uint64_t NewId() {
#ifdef ULTRAEP_TEST_POINTS
  if (test::world) return test::world->Random() | 1;
#endif
  uint64_t value = 0;
  while (value == 0)
    if (getrandom(&value, sizeof value, 0) != sizeof value) value = NowNs();
  return value;
}

}  // namespace

GroupGeneration::GroupGeneration(const GroupConfig& config) : layout_(config) {}

std::shared_ptr<GroupGeneration> GroupGeneration::Create(
    const GroupConfig& config, const PlanOptions& options, const std::vector<RankPlace>& places,
    const NodeDevices& devices, std::shared_ptr<StepStatistics> statistics, std::string* wrong) {
  std::shared_ptr<GroupGeneration> made(new GroupGeneration(config));
  made->id_ = NewId();
  made->doorbell_ = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!made->doorbell_) {
    *wrong = std::string("eventfd: ") + std::strerror(errno);
    return nullptr;
  }
  std::vector<int32_t> nodes;
  for (const RankPlace& place : places) nodes.push_back(place.numa_node);
  *wrong = made->memory_.Create(made->layout_, made->id_, nodes);
  if (wrong->empty() && config.memory == MemoryKind::kCuda) *wrong = made->MakeSocketPairs();
  if (wrong->empty() && config.memory == MemoryKind::kCudaDaemon)
    *wrong = made->MakeDeviceSlots(places, devices);
  if (!wrong->empty()) return nullptr;
  made->steps_ =
      std::make_unique<StepPlanner>(made->boards(), made->id_, options, std::move(statistics));
  return made;
}

void GroupGeneration::End() {
  EndGate(boards().gate());
  PulseAndWake(boards().pulse());
}

void GroupGeneration::SetMember(uint32_t rank, MemberState state) {
  ULTRAEP_POINT("member:before");
  boards().member(rank).value.store(uint64_t(state), std::memory_order_seq_cst);
  ULTRAEP_POINT("member:set");
}

RankStatistics GroupGeneration::Ranks() const {
  RankStatistics all;
  for (uint32_t r = 0; r < layout_.config.ranks; ++r) {
    RankStatistics one;
    CopyFromShared(&one, &boards().rank(r).statistics, sizeof one);
    all.Add(one);
  }
  return all;
}

// Packets with borders, so that a rank's messages and their descriptors stay together.
std::string GroupGeneration::MakeSocketPairs() {
  for (uint32_t r = 0; r < layout_.config.ranks; ++r) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
      return "socketpair " + std::to_string(r + 1) + " of " + std::to_string(layout_.config.ranks) +
             ": " + std::strerror(errno) + "; raise the daemon's LimitNOFILE";
    receiving_.emplace_back(ends[0]);
    shared_.emplace_back(ends[1]);
  }
  return "";
}

std::string GroupGeneration::MakeDeviceSlots(const std::vector<RankPlace>& places,
                                             const NodeDevices& devices) {
  std::vector<JoinDevice> of_ranks;
  for (const RankPlace& place : places) of_ranks.push_back(place.device);
  return devices.Make(of_ranks, layout_.device_bytes(), &device_slots_, &shared_);
}

bool GroupGeneration::SendTo(int socket, uint32_t rank, uint64_t lease_ns) {
  // Retired meanwhile, or every rank has its own.
  if (memory_.files().empty() || (layout_.config.on_device() && shared_.empty())) {
    errno = ESTALE;
    return false;
  }
  int descriptors[kMaxJoinedDescriptors];
  uint32_t count = 0;
  const auto add = [&](const Descriptor& d) { descriptors[count++] = d.get(); };
  add(doorbell_);
  for (const Descriptor& file : memory_.files()) add(file);
  if (!receiving_.empty()) add(receiving_[rank]);
  for (const Descriptor& d : shared_) add(d);
  Joined joined;
  joined.generation = id_;
  joined.lease_ns = lease_ns;
  if (!SendMessage(socket, joined, descriptors, count, MSG_DONTWAIT)) return false;
  if (++sent_ == layout_.config.ranks) CloseSlots();
  return true;
}

}  // namespace ultraep

#include "daemon/session/group.h"

#include <sys/eventfd.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

// Random, so that memory of an earlier daemon is never taken for this one's. 0 means "none".
uint64_t NewGeneration() {
  uint64_t value = 0;
  while (value == 0)
    if (getrandom(&value, sizeof value, 0) != sizeof value) value = NowNs();
  return value;
}

}  // namespace

Group::Group(const GroupKey& key, const GroupConfig& config)
    : key_(key), layout_(config), members_(config.ranks, MemberState::kAbsent) {}

std::shared_ptr<Group> Group::Create(const GroupKey& key, const GroupConfig& config,
                                     const PlanOptions& options, std::string* wrong) {
  std::shared_ptr<Group> group(new Group(key, config));
  group->generation_ = NewGeneration();
  group->doorbell_ = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!group->doorbell_) {
    *wrong = std::string("eventfd: ") + std::strerror(errno);
    return nullptr;
  }
  *wrong = group->memory_.Create(group->layout_, group->generation_);
  if (!wrong->empty()) return nullptr;
  group->steps_ = std::make_unique<StepPlanner>(group->boards(), group->generation_, options);
  return group;
}

std::string Group::Join(const ultraep::Join& request) {
  if (std::string differs = FirstDifference(layout_.config, request.config); !differs.empty())
    return "members of a group must agree: " + differs;
  if (LoadGate(boards().gate()).over())
    return "the group's generation is over (a member left or died); start the job with a new nonce";
  if (members_[request.rank] != MemberState::kAbsent)
    return "rank " + std::to_string(request.rank) +
           " has joined already; every rank joins once, from one process";
  SetMember(request.rank, MemberState::kJoined);
  ++connected_;
  if (request.fallback_tokens &&
      (!fallback_tokens_min_ || request.fallback_tokens < fallback_tokens_min_))
    fallback_tokens_min_ = request.fallback_tokens;
  return "";
}

bool Group::SendSegments(int socket) const {
  std::vector<int> descriptors{doorbell_.get()};
  for (const Descriptor& d : memory_.segments()) descriptors.push_back(d.get());
  Joined joined;
  joined.generation = generation_;
  joined.segments = uint32_t(descriptors.size());
  if (!SendMessage(socket, joined, nullptr, 0, MSG_DONTWAIT)) return false;
  for (uint32_t first = 0; first < descriptors.size(); first += kDescriptorsPerMessage) {
    Segments part;
    part.first = first;
    part.count = std::min<uint32_t>(kDescriptorsPerMessage, uint32_t(descriptors.size()) - first);
    if (!SendMessage(socket, part, &descriptors[first], part.count, MSG_DONTWAIT)) return false;
  }
  return true;
}

bool Group::Ready(uint32_t rank) {
  SetMember(rank, MemberState::kReady);
  if (missing() || LoadGate(boards().gate()).state != GateState::kClosed) return false;
  OpenGate(boards().gate());
  PulseAndWake(boards().pulse());
  return true;
}

void Group::Gone(uint32_t rank, MemberState how) {
  --connected_;
  // Not Ready yet: it promised nothing, its place is free for the next try.
  if (members_[rank] == MemberState::kJoined &&
      LoadGate(boards().gate()).state == GateState::kClosed) {
    SetMember(rank, MemberState::kAbsent);
    return;
  }
  SetMember(rank, how);
  End();
}

void Group::End() {
  EndGate(boards().gate());
  PulseAndWake(boards().pulse());
}

uint32_t Group::missing() const {
  return uint32_t(std::count_if(members_.begin(), members_.end(), [](MemberState m) {
    return m == MemberState::kAbsent || m == MemberState::kJoined;
  }));
}

void Group::SetMember(uint32_t rank, MemberState state) {
  members_[rank] = state;
  boards().member(rank).value.store(uint64_t(state), std::memory_order_seq_cst);
}

StatusGroup Group::Status() const {
  StatusGroup status;
  const Gate gate = LoadGate(boards().gate());
  status.config = layout_.config;
  status.uid = key_.uid;
  status.gate_state = uint32_t(gate.state);
  status.gate_value = gate.value;
  status.generation = generation_;
  status.memory_bytes = layout_.total_bytes();
  status.fallback_tokens_min = fallback_tokens_min_;
  status.counters = steps_->Counters();
  if (gate.state != GateState::kClosed && gate.state != GateState::kDead)
    status.next_sequence =
        gate.value + status.counters.steps_planned + status.counters.steps_fallback;
  for (uint32_t r = 0; r < members_.size(); ++r) status.members[r] = uint8_t(members_[r]);
  return status;
}

}  // namespace ultraep

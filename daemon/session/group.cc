#include "daemon/session/group.h"

#include <algorithm>
#include <utility>

#include "daemon/session/device_checks.h"
#include "protocol/transport/waiting.h"

namespace ultraep {
namespace {

// Boards of earlier generations that are kept for members slow to switch. More than one only when
// generations ended before anybody reached their first step.
constexpr size_t kEarlierKept = 4;

}  // namespace

Group::Group(const GroupKey& key, const GroupConfig& config, bool share_devices)
    : key_(key), layout_(config), share_devices_(share_devices), members_(config.ranks) {}

Refusal Group::CheckJoin(uint64_t owner, const ultraep::Join& request) const {
  if (std::string differs = FirstDifference(layout_.config, request.config); !differs.empty())
    return {"members of a group must agree: " + differs, false, RefusalKind::kDisagree};
  const Member& member = members_[request.rank];
  const std::string rank = "rank " + std::to_string(request.rank);
  if (member.owner && member.owner != owner)
    return {rank + " has joined already, from another process; that one must end first", true};
  const bool inside =
      member.state == MemberState::kJoined || member.state == MemberState::kReady;
  if (inside && !Over())
    return {rank + " has joined already; it joins again when the generation is over"};
  return CheckPlace(request);
}

// Against the living members alone: whoever takes the place of one that is gone may be elsewhere.
Refusal Group::CheckPlace(const ultraep::Join& request) const {
  if (!layout_.config.on_device()) return {};
  for (uint32_t r = 0; r < members_.size(); ++r) {
    if (r == request.rank || !members_[r].owner) continue;
    const JoinDevice& other = members_[r].place.device;
    if (std::string mixed = CheckSameArchitecture(request.rank, request.device, r, other);
        !mixed.empty())
      return {mixed, false, RefusalKind::kDisagree};
    if (share_devices_) continue;
    // Ranks that were all started again may have changed GPUs, and the old ones be ending yet.
    if (std::string both = CheckOwnDevice(request.rank, request.device, r, other); !both.empty())
      return {both, true, RefusalKind::kState};
  }
  return {};
}

void Group::Join(uint64_t owner, const ultraep::Join& request) {
  // What the old board says of this rank stays: whoever waits for it there waits in vain.
  if (Over()) {
    for (Member& m : members_)  // who is missing, and why, stays to be seen until it is back
      if (m.state == MemberState::kJoined || m.state == MemberState::kReady)
        m.state = MemberState::kAbsent;
    earlier_.push_back(std::exchange(generation_, nullptr));
    if (earlier_.size() > kEarlierKept) {
      ranks_before_.Add(earlier_.front()->Ranks());
      earlier_.pop_front();
    }
  }
  members_[request.rank] = {owner, MemberState::kJoined, {}, {request.numa_node, request.device}};
  if (request.fallback_tokens &&
      (!fallback_tokens_min_ || request.fallback_tokens < fallback_tokens_min_))
    fallback_tokens_min_ = request.fallback_tokens;
}

bool Group::complete() const {
  return !generation_ && Count(MemberState::kJoined) == layout_.config.ranks;
}

Refusal Group::Begin(const PlanOptions& options, const NodeDevices& devices) {
  std::string wrong;
  std::vector<RankPlace> places;
  std::vector<JoinDevice> of_ranks;
  for (const Member& m : members_) {
    places.push_back(m.place);
    of_ranks.push_back(m.place.device);
  }
  if (std::string apart = CheckDomains(layout_.config, of_ranks); !apart.empty())
    return {apart, false, RefusalKind::kDisagree};
  generation_ =
      GroupGeneration::Create(layout_.config, options, places, devices, statistics_, &wrong);
  if (!generation_) return {wrong, true, RefusalKind::kSystem};
  ++generations_;
  said_ = GateState::kOpen;
  generations_in_memory_ = std::min(generations_in_memory_ + 1, 2u);
  for (uint32_t r = 0; r < members_.size(); ++r) SetMember(r, MemberState::kJoined);
  return {};
}

bool Group::Ready(uint64_t owner, uint32_t rank, uint64_t generation) {
  // Late: the generation is over already, as the member will see by its gate.
  for (const auto& old : earlier_)
    if (old->id() == generation) return true;
  if (!generation_ || generation_->id() != generation) return false;
  if (Over()) return true;
  const Member& member = members_[rank];
  if (member.owner != owner || member.state != MemberState::kJoined) return false;
  SetMember(rank, MemberState::kReady);
  if (Count(MemberState::kReady) < members_.size()) return true;
  OpenGate(generation_->boards().gate());
  PulseAndWake(generation_->boards().pulse());
  generations_in_memory_ = 1;
  return true;
}

void Group::Gone(uint64_t owner, uint32_t rank, MemberState how) {
  if (Owns(owner, rank)) Lose(rank, how);  // else another process has its place
}

void Group::Lose(uint32_t rank, MemberState how) {
  members_[rank].owner = 0;
  members_[rank].state = how;
  statistics_->Lost(how);
  // It may still take part in operations on the slots of generations that are over.
  for (const auto& old : earlier_) old->SetMember(rank, how);
  if (!generation_) return;
  generation_->SetMember(rank, how);
  generation_->End();
}

std::vector<uint32_t> Group::Fence(uint64_t now, uint64_t lease_ns) {
  std::vector<uint32_t> fenced;
  // After a generation those who have not joined again still beat on its board.
  const GroupGeneration* const board =
      generation_ ? generation_.get() : (earlier_.empty() ? nullptr : earlier_.back().get());
  for (uint32_t r = 0; board && r < members_.size(); ++r) {
    Member& m = members_[r];
    if (!m.owner || (!generation_ && m.state == MemberState::kJoined)) continue;
    const uint64_t beat = board->boards().rank(r).heartbeat.value.load(std::memory_order_relaxed);
    if (m.lease.Expired(beat, now, lease_ns)) fenced.push_back(r);
  }
  for (uint32_t r : fenced) Lose(r, MemberState::kFenced);  // it may come back, or a new process
  return fenced;
}

bool Group::empty() const {
  return std::all_of(members_.begin(), members_.end(), [](const Member& m) { return !m.owner; });
}

uint32_t Group::Count(MemberState state) const {
  return uint32_t(std::count_if(members_.begin(), members_.end(),
                                [&](const Member& m) { return m.state == state; }));
}

void Group::SetMember(uint32_t rank, MemberState state) {
  members_[rank].state = state;
  generation_->SetMember(rank, state);
}

GroupSource Group::Source() const {
  GroupSource source;
  StatusGroup& status = source.fixed;
  status.config = layout_.config;
  status.uid = key_.uid;
  status.generations = generations_;
  status.memory_bytes = memory_bytes();
  status.device_bytes = device_bytes();
  for (const Member& m : members_)
    if (m.owner && !status.device[0] && device_bytes())
      SetText(status.device, GetText(m.place.device.name));
  status.fallback_tokens_min = fallback_tokens_min_;
  for (uint32_t r = 0; r < members_.size(); ++r) status.members[r] = uint8_t(members_[r].state);
  source.ranks_before = ranks_before_;
  source.generations.assign(earlier_.begin(), earlier_.end());
  source.present = generation_ != nullptr;
  if (generation_) source.generations.push_back(generation_);
  source.statistics = statistics_;
  source.believed = believed_;
  return source;
}

std::optional<GateState> Group::TakeOver() {
  if (!generation_) return std::nullopt;
  const Gate gate = generation_->gate();
  if (!gate.over() || gate.state == said_) return std::nullopt;
  said_ = gate.state;
  return said_;
}

}  // namespace ultraep

// An EP group: who its members are, and the generations of its memory, one after the other. Knows
// no sockets.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/session/group_generation.h"
#include "daemon/session/node_view.h"
#include "daemon/session/statistics.h"
#include "protocol/lease.h"
#include "protocol/message.h"
#include "protocol/transport/waiting.h"
#include "protocol/verdict_board.h"

namespace ultraep {

// Other users and other jobs of the same user are other groups.
struct GroupKey {
  uid_t uid = 0;
  std::string name;
  std::array<uint8_t, 16> nonce{};

  auto operator<=>(const GroupKey&) const = default;
};

// Why a member may not join now; empty: it may. retry: the reason may go away by itself.
struct Refusal {
  std::string text;
  bool retry = false;
  RefusalKind kind = RefusalKind::kState;
};

// The session thread's. A member is known by the id of its connection ("owner", never 0).
class Group {
 public:
  // share_devices: members may be on one GPU.
  Group(const GroupKey& key, const GroupConfig& config, bool share_devices = false);

  const GroupKey& key() const { return key_; }
  const GroupConfig& config() const { return layout_.config; }
  // The present generation; null before the first.
  const std::shared_ptr<GroupGeneration>& generation() const { return generation_; }

  Refusal CheckJoin(uint64_t owner, const ultraep::Join& request) const;
  // It waits for the next generation now. CheckJoin has let it.
  void Join(uint64_t owner, const ultraep::Join& request);
  // Every rank waits: time to Begin.
  bool complete() const;
  // Makes the next generation, of new memory; rule 7 allows nothing else. No text on success.
  Refusal Begin(const PlanOptions& options, const NodeDevices& devices);
  // False: it was never asked to. Opens the gate with the last one.
  bool Ready(uint64_t owner, uint32_t rank, uint64_t generation);
  // The member left or died: ends the generation.
  void Gone(uint64_t owner, uint32_t rank, MemberState how);
  // Ends the generation of members whose heartbeat stands still. Their ranks, most often none.
  std::vector<uint32_t> Fence(uint64_t now, uint64_t lease_ns);

  // Is the rank's place this connection's? A fenced one has lost it.
  bool Owns(uint64_t owner, uint32_t rank) const { return members_[rank].owner == owner; }
  bool empty() const;  // no connection left
  // Shared memory that it may occupy: a generation's slots live until its members have switched to
  // the next one.
  uint64_t memory_bytes() const { return layout_.total_bytes() * generations_in_memory_; }
  uint64_t next_generation_bytes() const { return layout_.total_bytes(); }
  // Of each rank's GPU; limits of shared memory do not count it.
  uint64_t device_bytes() const { return layout_.device_bytes(); }
  // As the two above, of all its GPUs: what the daemon makes there (MemoryKind::kCudaDaemon).
  uint64_t gpu_memory_bytes() const { return next_gpu_bytes() * generations_in_memory_; }
  uint64_t next_gpu_bytes() const {
    return config().memory == MemoryKind::kCudaDaemon ? device_bytes() * config().ranks : 0;
  }
  // Where its numbers are, for other threads.
  GroupSource Source() const;
  StepStatistics& statistics() const { return *statistics_; }
  const std::shared_ptr<StepStatistics>& shared_statistics() const { return statistics_; }
  // The state in which the present generation is over, when that has not been said yet.
  std::optional<GateState> TakeOver();

 private:
  struct Member {
    uint64_t owner = 0;
    MemberState state = MemberState::kAbsent;
    Lease lease;
    RankPlace place;
  };

  Refusal CheckPlace(const ultraep::Join& request) const;
  bool Over() const { return generation_ && generation_->gate().over(); }
  void SetMember(uint32_t rank, MemberState state);
  // Its place is free, and the generation ends.
  void Lose(uint32_t rank, MemberState how);
  uint32_t Count(MemberState state) const;

  const GroupKey key_;
  const GroupLayout layout_;
  const bool share_devices_;
  const std::shared_ptr<StepStatistics> statistics_ = std::make_shared<StepStatistics>();
  const std::shared_ptr<BelievedRanks> believed_ = std::make_shared<BelievedRanks>(NowNs());
  std::shared_ptr<GroupGeneration> generation_;
  // Earlier generations: members may still use their slots and look there for who is gone.
  std::deque<std::shared_ptr<GroupGeneration>> earlier_;
  RankStatistics ranks_before_;        // of those that are no longer kept
  GateState said_ = GateState::kOpen;  // of the present one, by TakeOver
  uint64_t generations_ = 0;
  uint32_t generations_in_memory_ = 0;
  std::vector<Member> members_;
  uint64_t fallback_tokens_min_ = 0;
};

}  // namespace ultraep

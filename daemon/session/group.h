// One generation of an EP group: its memory, its members, its steps.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/memory/group_memory.h"
#include "daemon/session/step_planner.h"
#include "protocol/message.h"

namespace ultraep {

// Other users and other jobs of the same user are other groups.
struct GroupKey {
  uid_t uid = 0;
  std::string name;
  std::array<uint8_t, 16> nonce{};

  auto operator<=>(const GroupKey&) const = default;
};

// Members are the session thread's, steps() the planner thread's; the boards are shared by nature.
class Group {
 public:
  // Null with `wrong` set when the memory cannot be had.
  static std::shared_ptr<Group> Create(const GroupKey& key, const GroupConfig& config,
                                       const PlanOptions& options, std::string* wrong);

  const GroupKey& key() const { return key_; }
  const GroupLayout& layout() const { return layout_; }
  const Boards& boards() const { return memory_.boards(); }
  uint64_t generation() const { return generation_; }
  int doorbell() const { return doorbell_.get(); }
  StepPlanner& steps() { return *steps_; }

  // Session thread only. Join says why not, or nothing.
  std::string Join(const ultraep::Join& request);
  bool SendSegments(int socket) const;
  // True when this was the last one missing: the gate is open now.
  bool Ready(uint32_t rank);
  // The member left or died: ends the generation and wakes everybody.
  void Gone(uint32_t rank, MemberState how);
  void End();
  bool empty() const { return connected_ == 0; }
  uint32_t missing() const;
  StatusGroup Status() const;

 private:
  Group(const GroupKey& key, const GroupConfig& config);
  void SetMember(uint32_t rank, MemberState state);

  const GroupKey key_;
  const GroupLayout layout_;
  uint64_t generation_ = 0;
  GroupMemory memory_;
  Descriptor doorbell_;
  std::unique_ptr<StepPlanner> steps_;
  std::vector<MemberState> members_;
  uint32_t connected_ = 0;
  uint64_t fallback_tokens_min_ = 0;
};

}  // namespace ultraep

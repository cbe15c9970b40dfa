// All groups of this daemon: who may make one, within which limits, and whose generations are
// planned.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "daemon/options.h"
#include "daemon/session/group.h"
#include "daemon/session/plan_loop.h"

namespace ultraep {

// The session thread's.
class Groups {
 public:
  Groups(const DaemonOptions& options, const NodeDevices& devices, PlanLoop* planner,
         NodeView* view)
      : options_(options), devices_(devices), planner_(planner), view_(view) {}

  // The group in which `owner` waits now; null with `refusal` set when it may not.
  std::shared_ptr<Group> Join(uint64_t owner, uid_t uid, const ultraep::Join& request,
                              Refusal* refusal);
  // When all its ranks wait: the next generation. True when it began; `refusal` is for all members
  // when it cannot.
  bool Begin(Group* group, Refusal* refusal);
  void Gone(const std::shared_ptr<Group>& group, uint64_t owner, uint32_t rank, MemberState how);
  struct Fenced {
    std::shared_ptr<Group> group;
    std::vector<uint32_t> ranks;
  };
  std::vector<Fenced> Fence(uint64_t now);
  // Ranks fall back at once instead of waiting for rows nobody collects.
  void EndAll();

  bool empty() const { return groups_.empty(); }
  uint64_t memory_bytes() const;
  PlanOptions OptionsFor(const GroupConfig& config) const;
  const std::map<GroupKey, std::shared_ptr<Group>>& all() const { return groups_; }

 private:
  Refusal CheckNewGroup(const Group& group) const;
  Refusal CheckMemory(const Group& group) const;
  Refusal CheckGpuMemory(const Group& group) const;
  void KeepLayers(Group* group) const;
  void CloseIfEmpty(const std::shared_ptr<Group>& group);

  const DaemonOptions options_;
  const NodeDevices& devices_;
  PlanLoop* const planner_;
  NodeView* const view_;
  std::map<GroupKey, std::shared_ptr<Group>> groups_;
};

}  // namespace ultraep

// One life of a group's shared memory: boards, slots, and the steps planned on them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/memory/group_memory.h"
#include "daemon/session/statistics.h"
#include "daemon/session/step_planner.h"
#include "protocol/message.h"
#include "protocol/rank_statistics.h"

namespace ultraep {

// steps() is the planner thread's, the boards are shared by nature, the rest is the session
// thread's.
class GroupGeneration {
 public:
  // numa_nodes: of each rank, -1: none. Null with `wrong` set when the memory cannot be had.
  static std::shared_ptr<GroupGeneration> Create(const GroupConfig& config,
                                                 const PlanOptions& options,
                                                 const std::vector<int32_t>& numa_nodes,
                                                 std::shared_ptr<StepStatistics> statistics,
                                                 std::string* wrong);

  uint64_t id() const { return id_; }
  const GroupLayout& layout() const { return layout_; }
  const Boards& boards() const { return memory_.boards(); }
  int doorbell() const { return doorbell_.get(); }
  StepPlanner& steps() { return *steps_; }
  Gate gate() const { return LoadGate(boards().gate()); }

  // Ends it, so that every open step resolves, and wakes everybody.
  void End();
  void SetMember(uint32_t rank, MemberState state);
  // What its ranks say of their steps and transfers, summed.
  RankStatistics Ranks() const;
  // Passes doorbell and segment files to a member: Joined. False with errno set when it cannot.
  bool SendTo(int socket, uint64_t lease_ns) const;
  // It is over and no longer planned: gives up its descriptors. Slots live on as long as members map
  // them; the boards stay here, since members still look there for who is gone.
  void Retire() {
    memory_.CloseFiles();
    doorbell_.reset();
  }

 private:
  explicit GroupGeneration(const GroupConfig& config);

  const GroupLayout layout_;
  uint64_t id_ = 0;
  GroupMemory memory_;
  Descriptor doorbell_;
  std::unique_ptr<StepPlanner> steps_;
};

}  // namespace ultraep

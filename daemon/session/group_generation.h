// One life of a group's shared memory: boards, slots, and the steps planned on them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/memory/device_memory.h"
#include "daemon/memory/group_memory.h"
#include "daemon/session/statistics.h"
#include "daemon/session/step_planner.h"
#include "protocol/message.h"
#include "protocol/rank_statistics.h"

namespace ultraep {

// Where a rank is. numa_node: -1: anywhere; device: of slots on GPUs.
struct RankPlace {
  int32_t numa_node = -1;
  JoinDevice device;
};

// steps() is the planner thread's, the boards are shared by nature, the rest is the session
// thread's.
class GroupGeneration {
 public:
  // places: of each rank. devices: who makes slots on GPUs, when they are the daemon's. Null with
  // `wrong` set when the memory cannot be had.
  static std::shared_ptr<GroupGeneration> Create(
      const GroupConfig& config, const PlanOptions& options, const std::vector<RankPlace>& places,
      const NodeDevices& devices, std::shared_ptr<StepStatistics> statistics, std::string* wrong);

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
  // Passes doorbell, segment files and what leads to the slots to a member: Joined, at most once
  // for each rank. False with errno set when it cannot.
  bool SendTo(int socket, uint32_t rank, uint64_t lease_ns);
  // That travel with a Joined of this group.
  uint32_t descriptors() const {
    return JoinedDescriptors(layout_.config.memory, layout_.config.ranks);
  }
  // It is over and no longer planned: gives up its descriptors. Slots live on as long as members map
  // them; the boards stay here, since members still look there for who is gone.
  void Retire() {
    memory_.CloseFiles();
    CloseSlots();
    device_slots_ = {};
    doorbell_.reset();
  }

 private:
  explicit GroupGeneration(const GroupConfig& config);

  std::string MakeSocketPairs();
  std::string MakeDeviceSlots(const std::vector<RankPlace>& places, const NodeDevices& devices);
  void CloseSlots() {
    receiving_.clear();
    shared_.clear();
  }

  const GroupLayout layout_;
  uint64_t id_ = 0;
  GroupMemory memory_;
  Descriptor doorbell_;
  // Of slots on GPUs, until every rank was sent them. kCuda: the ends of socket pairs at which each
  // rank receives, and those at which all send to it: once they are closed here, a rank that is
  // gone is noticed at them. kCudaDaemon: the slots.
  std::vector<Descriptor> receiving_;
  std::vector<Descriptor> shared_;
  NodeSlots device_slots_;
  uint32_t sent_ = 0;
  std::unique_ptr<StepPlanner> steps_;
};

}  // namespace ultraep

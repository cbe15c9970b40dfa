#include "daemon/session/group_generation.h"

#include <sys/eventfd.h>
#include <sys/random.h>

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

std::shared_ptr<GroupGeneration> GroupGeneration::Create(const GroupConfig& config,
                                                         const PlanOptions& options,
                                                         const std::vector<int32_t>& numa_nodes,
                                                         std::shared_ptr<StepStatistics> statistics,
                                                         std::string* wrong) {
  std::shared_ptr<GroupGeneration> made(new GroupGeneration(config));
  made->id_ = NewId();
  made->doorbell_ = Descriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!made->doorbell_) {
    *wrong = std::string("eventfd: ") + std::strerror(errno);
    return nullptr;
  }
  *wrong = made->memory_.Create(made->layout_, made->id_, numa_nodes);
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

bool GroupGeneration::SendTo(int socket, uint64_t lease_ns) const {
  if (memory_.files().empty()) {  // retired meanwhile
    errno = ESTALE;
    return false;
  }
  int descriptors[kJoinedDescriptors] = {doorbell_.get()};
  for (uint32_t f = 0; f < kSegmentFiles; ++f) descriptors[1 + f] = memory_.files()[f].get();
  Joined joined;
  joined.generation = id_;
  joined.lease_ns = lease_ns;
  return SendMessage(socket, joined, descriptors, kJoinedDescriptors, MSG_DONTWAIT);
}

}  // namespace ultraep

#include "plugin/core/generation.h"

#include <unistd.h>

#include <utility>

#include "plugin/core/streamer.h"

namespace ultraep {

Generation::Generation(const GroupConfig& config, uint32_t own_rank, uint64_t number)
    : layout(config),
      rank(own_rank),
      id(number),
      leases_(config.ranks),
      wedged_(new std::atomic<bool>[config.ranks]()) {
  boards.layout = &layout;
}

Generation::~Generation() {
  streamer.reset();  // its thread uses the mappings
}

std::string Generation::Add(uint32_t index, Descriptor descriptor) {
  const uint32_t ranks = layout.config.ranks;
  if (index == 0) {
    doorbell = std::move(descriptor);
    return "";
  }
  SegmentKind kind = SegmentKind::kPlanBoard;
  uint32_t member = 0;
  if (index == 2) kind = SegmentKind::kVerdictBoard;
  if (index >= 3) {
    kind = index < 3 + ranks ? SegmentKind::kRankBoard : SegmentKind::kSlots;
    member = (index - 3) % ranks;
  }
  const bool writable = kind == SegmentKind::kVerdictBoard || kind == SegmentKind::kSlots ||
                        (kind == SegmentKind::kRankBoard && member == rank);
  const SegmentHeader expected = layout.Header(kind, member, id);
  Mapping mapping;
  std::string wrong = CheckDescriptor(descriptor.get(), expected.bytes);
  if (wrong.empty()) wrong = mapping.Map(descriptor.get(), expected.bytes, writable);
  if (wrong.empty()) wrong = CheckHeader(mapping.base(), expected);
  if (!wrong.empty()) return wrong;
  mappings_.push_back(std::move(mapping));
  unsigned char* base = mappings_.back().base();
  switch (kind) {
    case SegmentKind::kPlanBoard:
      boards.plan_base = base;
      break;
    case SegmentKind::kVerdictBoard:
      boards.verdict_base = base;
      break;
    case SegmentKind::kRankBoard:
      boards.rank_base.push_back(base);
      break;
    case SegmentKind::kSlots:
      boards.slot_base.push_back(base);
      break;
  }
  return "";
}

void Generation::RingDoorbell() const {
  if (!boards.plan().sleeping.value.load(std::memory_order_seq_cst)) return;
  const uint64_t one = 1;
  if (doorbell && write(doorbell.get(), &one, sizeof one) < 0) return;  // already ringing
}

bool Generation::IsGone(uint32_t member) const {
  const uint64_t state = boards.member(member).value.load(std::memory_order_seq_cst);
  return state == uint64_t(MemberState::kGone) || state == uint64_t(MemberState::kLeft) ||
         state == uint64_t(MemberState::kFenced) ||
         wedged_[member].load(std::memory_order_relaxed);
}

void Generation::WatchMembers(uint64_t now) {
  for (uint32_t r = 0; r < layout.config.ranks; ++r) {
    const uint64_t beat = boards.rank(r).heartbeat.value.load(std::memory_order_relaxed);
    if (r != rank && leases_[r].Expired(beat, now, lease_ns))
      wedged_[r].store(true, std::memory_order_relaxed);
  }
}

void Generation::WakeOperations() const {
  for (uint32_t r = 0; r < layout.config.ranks; ++r) {
    PulseAndWake(boards.slots(r).arrivals);
    WakeAll(boards.rank(r).accept_pulse);  // its count is that rank's alone
  }
}

void Generation::Fail() const {
  FailGate(boards.gate());
  WakeMembers();
  WakeOperations();
}

void Generation::End() const {
  EndGate(boards.gate());
  WakeMembers();
  WakeOperations();
}

}  // namespace ultraep

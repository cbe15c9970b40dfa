#include "plugin/core/generation.h"

#include <unistd.h>

#include <utility>

#include "plugin/core/streamer.h"

namespace ultraep {

Generation::Generation(const GroupConfig& config, uint32_t own_rank, uint64_t number)
    : layout(config), rank(own_rank), id(number) {
  boards.layout = &layout;
}

Generation::~Generation() {
  streamer.reset();  // its thread uses the mappings
}

std::string Generation::Map(std::vector<Descriptor> descriptors) {
  const uint32_t ranks = layout.config.ranks;
  if (descriptors.size() != SegmentCount(ranks))
    return "the daemon sent " + std::to_string(descriptors.size()) + " descriptors, expected " +
           std::to_string(SegmentCount(ranks));
  doorbell = std::move(descriptors[0]);
  size_t next = 1;
  std::string wrong;
  auto map = [&](SegmentKind kind, uint32_t member, bool writable) -> unsigned char* {
    const SegmentHeader expected = layout.Header(kind, member, id);
    const int fd = descriptors[next++].get();
    Mapping mapping;
    if (wrong.empty()) wrong = CheckDescriptor(fd, expected.bytes);
    if (wrong.empty()) wrong = mapping.Map(fd, expected.bytes, writable);
    if (wrong.empty()) wrong = CheckHeader(mapping.base(), expected);
    mappings_.push_back(std::move(mapping));
    return mappings_.back().base();
  };
  boards.plan_base = map(SegmentKind::kPlanBoard, 0, false);
  boards.verdict_base = map(SegmentKind::kVerdictBoard, 0, true);
  for (uint32_t r = 0; r < ranks; ++r)
    boards.rank_base.push_back(map(SegmentKind::kRankBoard, r, r == rank));
  for (uint32_t r = 0; r < ranks; ++r)
    boards.slot_base.push_back(map(SegmentKind::kSlots, r, true));
  return wrong;
}

void Generation::RingDoorbell() const {
  if (!boards.plan().sleeping.value.load(std::memory_order_seq_cst)) return;
  const uint64_t one = 1;
  if (doorbell && write(doorbell.get(), &one, sizeof one) < 0) return;  // already ringing
}

bool Generation::IsGone(uint32_t member) const {
  const uint64_t state = boards.member(member).value.load(std::memory_order_seq_cst);
  return state == uint64_t(MemberState::kGone) || state == uint64_t(MemberState::kLeft);
}

}  // namespace ultraep

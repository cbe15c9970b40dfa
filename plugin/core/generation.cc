#include "plugin/core/generation.h"

#include <unistd.h>

#include <utility>

#include "plugin/core/device/slots.h"
#include "plugin/core/device/step_memory.h"
#include "plugin/core/operation_book.h"
#include "plugin/core/reducer.h"
#include "plugin/core/streamer.h"
#include "protocol/transport/map_segment.h"

namespace ultraep {

Generation::Generation(const GroupConfig& config, uint32_t own_rank, uint64_t number)
    : layout(config),
      rank(own_rank),
      id(number),
      leases_(config.ranks),
      wedged_(new std::atomic<bool>[config.ranks]()) {
  boards.layout = &layout;
}

DevicePart::DevicePart() : index(kMemories) {}

DevicePart::~DevicePart() {
  slots.reset();
  if (index < kMemories) memory->Free(index);
}

Generation::~Generation() {
  reducer.reset();  // their threads use the mappings
  streamer.reset();
}

void Generation::StartOperations() {
  book = std::make_unique<OperationBook>(layout.config, &boards.rank(rank));
  if (layout.config.on_device()) return;  // kernels do
  streamer = std::make_unique<Streamer>(this);
  reducer = std::make_unique<Reducer>(this);
}

std::string Generation::MapChecked(const std::vector<Descriptor>& files, SegmentKind kind,
                                   uint32_t member) {
  const bool writable = kind == SegmentKind::kVerdictBoard || kind == SegmentKind::kSlots ||
                        (kind == SegmentKind::kRankBoard && member == rank);
  std::string wrong = MapSegment(files, kind, member, writable, &mappings_, &boards);
  if (!wrong.empty()) return wrong;
  return CheckHeader(mappings_.back().base(), layout.Header(kind, member, id));
}

std::string Generation::Map(std::vector<Descriptor>* received) {
  std::vector<Descriptor>& descriptors = *received;
  const uint32_t expected = JoinedDescriptors(layout.config.memory, layout.config.ranks);
  if (descriptors.size() != expected)
    return std::to_string(descriptors.size()) + " descriptors came, expected " +
           std::to_string(expected);
  doorbell = std::move(descriptors.front());
  descriptors.erase(descriptors.begin());
  std::string wrong;
  for (uint32_t f = 0; f < layout.files() && wrong.empty(); ++f)
    wrong = CheckDescriptor(descriptors[f].get(), layout.file_bytes(SegmentFile(f)));
  layout.ForEachSegment([&](SegmentKind kind, uint32_t member) {
    if (wrong.empty()) wrong = MapChecked(descriptors, kind, member);
  });
  descriptors.erase(descriptors.begin(), descriptors.begin() + layout.files());
  return wrong;
}

void Generation::RingDoorbell() const {
  if (!boards.plan().sleeping.value.load(std::memory_order_seq_cst)) return;
  const uint64_t one = 1;
  if (doorbell && write(doorbell.get(), &one, sizeof one) < 0) return;  // already ringing
}

bool Generation::IsGone(uint32_t member) const {
  const uint64_t state = boards.member(member).value.load(std::memory_order_seq_cst);
  return state == uint64_t(MemberState::kGone) || state == uint64_t(MemberState::kLeft) ||
         state == uint64_t(MemberState::kFenced) || wedged_[member].load(std::memory_order_relaxed);
}

std::string Generation::WhoIsGone() const {
  for (uint32_t r = 0; r < layout.config.ranks; ++r) {
    if (!IsGone(r)) continue;
    const uint64_t state = boards.member(r).value.load(std::memory_order_relaxed);
    return "rank " + std::to_string(r) +
           (state == uint64_t(MemberState::kLeft)     ? " left"
            : state == uint64_t(MemberState::kFenced) ? " gave no sign of life"
                                                      : " is gone");
  }
  return "";
}

std::string Generation::FailureText() const {
  const std::string gone = WhoIsGone();
  return "the generation has failed" + (gone.empty() ? "" : " (" + gone + ")");
}

void Generation::WatchMembers(uint64_t now) {
  for (uint32_t r = 0; r < layout.config.ranks; ++r) {
    const uint64_t beat = boards.rank(r).heartbeat.value.load(std::memory_order_relaxed);
    if (r != rank && leases_[r].Expired(beat, now, lease_ns))
      wedged_[r].store(true, std::memory_order_relaxed);
  }
}

void Generation::WakeOperations() const {
  if (layout.config.on_device()) return;  // kernels do not sleep
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

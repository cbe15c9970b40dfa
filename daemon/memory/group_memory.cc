#include "daemon/memory/group_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace ultraep {
namespace {

const char* KindName(uint16_t kind) {
  switch (SegmentKind(kind)) {
    case SegmentKind::kRankBoard:
      return "ultraep-rank-board";
    case SegmentKind::kPlanBoard:
      return "ultraep-plan-board";
    case SegmentKind::kVerdictBoard:
      return "ultraep-verdict-board";
    case SegmentKind::kSlots:
      return "ultraep-slots";
  }
  return "ultraep";
}

std::string Failure(const SegmentHeader& header, const char* call) {
  return std::string(KindName(header.kind)) + " of " + std::to_string(header.bytes) +
         " bytes: " + call + ": " + std::strerror(errno);
}

}  // namespace

std::string GroupMemory::Add(const SegmentHeader& header, Mapping* mapping, bool writable) {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int fd = memfd_create(KindName(header.kind), flags | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = memfd_create(KindName(header.kind), flags);  // before 6.3
  if (fd < 0) return Failure(header, "memfd_create");
  segments_.emplace_back(fd);
  // Allocates and zeroes every page now; ftruncate would succeed and fault later.
  while (fallocate(fd, 0, 0, off_t(header.bytes)))
    if (errno != EINTR) return Failure(header, "fallocate");
  if (pwrite(fd, &header, sizeof header, 0) != ssize_t(sizeof header))
    return Failure(header, "pwrite");
  if (mapping) {
    std::string wrong = mapping->Map(fd, header.bytes, writable);
    if (!wrong.empty()) return wrong;
  }
  int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  // The mapping above stays writable, any later one is refused: ranks cannot forge a plan.
  if (header.kind == uint16_t(SegmentKind::kPlanBoard)) seals |= F_SEAL_FUTURE_WRITE;
  if (fcntl(fd, F_ADD_SEALS, seals)) return Failure(header, "sealing");
  return "";
}

std::string GroupMemory::Create(const GroupLayout& layout, uint64_t generation) {
  const uint32_t ranks = layout.config.ranks;
  auto add = [&](SegmentKind kind, uint32_t rank, Mapping* mapping, bool writable) {
    return Add(layout.Header(kind, rank, generation), mapping, writable);
  };
  ranks_.resize(ranks);
  std::string wrong = add(SegmentKind::kPlanBoard, 0, &plan_, true);
  if (wrong.empty()) wrong = add(SegmentKind::kVerdictBoard, 0, &verdict_, true);
  for (uint32_t r = 0; r < ranks && wrong.empty(); ++r)
    wrong = add(SegmentKind::kRankBoard, r, &ranks_[r], false);
  for (uint32_t r = 0; r < ranks && wrong.empty(); ++r)
    wrong = add(SegmentKind::kSlots, r, nullptr, false);
  if (!wrong.empty()) return wrong;

  boards_.layout = &layout;
  boards_.plan_base = plan_.base();
  boards_.verdict_base = verdict_.base();
  for (const Mapping& m : ranks_) boards_.rank_base.push_back(m.base());
  return "";
}

}  // namespace ultraep

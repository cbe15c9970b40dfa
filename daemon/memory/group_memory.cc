#include "daemon/memory/group_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "daemon/memory/memory_file.h"
#include "daemon/memory/numa_placement.h"
#include "protocol/transport/map_segment.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace ultraep {
namespace {

constexpr const char* kNames[kSegmentFiles] = {"ultraep-plan", "ultraep-boards", "ultraep-slots"};

std::string Failure(uint32_t file, uint64_t bytes, const char* call) {
  return std::string(kNames[file]) + " of " + std::to_string(bytes) + " bytes: " + call + ": " +
         std::strerror(errno);
}

}  // namespace

std::string GroupMemory::Allocate(const GroupLayout& layout,
                                  const std::vector<int32_t>& numa_nodes) {
  for (uint32_t f = 0; f < layout.files(); ++f) {
    const uint64_t bytes = layout.file_bytes(SegmentFile(f));
    Descriptor file = MakeMemoryFile(kNames[f], bytes);
    if (!file) return Failure(f, bytes, "memfd_create or ftruncate");
    const int fd = file.get();
    files_.push_back(std::move(file));
    for (uint32_t r = 0; r < layout.config.ranks; ++r)
      for (const SegmentKind kind : {SegmentKind::kRankBoard, SegmentKind::kSlots})
        if (layout.file(kind) == SegmentFile(f))
          PreferNode(fd, layout.offset(kind, r), RoundUp(layout.bytes(kind), kSegmentAlign),
                     numa_nodes[r]);
    if (!AllocateMemoryFile(fd, bytes)) return Failure(f, bytes, "fallocate");
  }
  return "";
}

std::string GroupMemory::Create(const GroupLayout& layout, uint64_t generation,
                                const std::vector<int32_t>& numa_nodes) {
  boards_.layout = &layout;
  std::string wrong = Allocate(layout, numa_nodes);
  layout.ForEachSegment([&](SegmentKind kind, uint32_t rank) {
    if (!wrong.empty()) return;
    const uint32_t file = uint32_t(layout.file(kind));
    const SegmentHeader header = layout.Header(kind, rank, generation);
    if (pwrite(files_[file].get(), &header, sizeof header, off_t(layout.offset(kind, rank))) !=
        ssize_t(sizeof header))
      wrong = Failure(file, layout.file_bytes(layout.file(kind)), "pwrite");
    else if (kind != SegmentKind::kSlots)  // those are not the daemon's to look at
      wrong = MapSegment(files_, kind, rank, /*writable=*/kind != SegmentKind::kRankBoard,
                         &mappings_, &boards_);
  });
  for (uint32_t f = 0; f < layout.files() && wrong.empty(); ++f) {
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    // The mapping above stays writable, any later one is refused: ranks cannot forge a plan.
    if (SegmentFile(f) == SegmentFile::kPlan) seals |= F_SEAL_FUTURE_WRITE;
    if (fcntl(files_[f].get(), F_ADD_SEALS, seals))
      wrong = Failure(f, layout.file_bytes(SegmentFile(f)), "sealing");
  }
  return wrong;
}

}  // namespace ultraep

// Who owns buffers: the daemon makes every segment of a group, ranks only map them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/boards.h"
#include "protocol/transport/mapping.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

// All segments of one generation of a group. Nameless (memfd): no leftovers, no limit of /dev/shm,
// nothing to squat on. Every byte is allocated before a rank sees a descriptor, so that running out
// of memory is a refused join and never a SIGBUS in a step.
class GroupMemory {
 public:
  // Empty on success, else which segment and why.
  std::string Create(const GroupLayout& layout, uint64_t generation);

  // Where the daemon sees the boards. Rank boards are mapped read-only, slots not at all.
  const Boards& boards() const { return boards_; }
  // Descriptors in the order of protocol/message.h, after the doorbell: plan board, verdict board,
  // rank boards, slots.
  const std::vector<Descriptor>& segments() const { return segments_; }
  // What is mapped here stays mapped.
  void CloseSegments() { segments_.clear(); }

 private:
  std::string Add(const SegmentHeader& header, Mapping* mapping, bool writable);

  std::vector<Descriptor> segments_;
  Mapping plan_, verdict_;
  std::vector<Mapping> ranks_;
  Boards boards_;
};

}  // namespace ultraep

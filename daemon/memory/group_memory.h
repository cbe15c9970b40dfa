// Who owns buffers: the daemon makes every segment of a group that is in host memory, ranks only
// map them. Slots on GPUs are not among them.
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
  // numa_nodes: where each rank's slots and board shall lie, -1: anywhere. Empty on success, else
  // which file and why.
  std::string Create(const GroupLayout& layout, uint64_t generation,
                     const std::vector<int32_t>& numa_nodes);

  // Where the daemon sees the boards. Rank boards are mapped read-only, slots not at all.
  const Boards& boards() const { return boards_; }
  // [layout.files()]
  const std::vector<Descriptor>& files() const { return files_; }
  // What is mapped here stays mapped.
  void CloseFiles() { files_.clear(); }

 private:
  std::string Allocate(const GroupLayout& layout, const std::vector<int32_t>& numa_nodes);

  std::vector<Descriptor> files_;
  std::vector<Mapping> mappings_;
  Boards boards_;
};

}  // namespace ultraep

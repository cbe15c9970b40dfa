// On which NUMA node the pages of a file will lie.
#pragma once

#include <cstdint>

namespace ultraep {

// Pages of [offset, offset + bytes) of the memfd that are allocated from now on come from that node
// while it has some left; node < 0: from anywhere. Where the kernel refuses (a container's filter,
// a node that is none), they come from anywhere too: slower, not wrong. True when it was done.
bool PreferNode(int fd, uint64_t offset, uint64_t bytes, int32_t node);

}  // namespace ultraep

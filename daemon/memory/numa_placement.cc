#include "daemon/memory/numa_placement.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ultraep {

// The policy of a memfd's range belongs to the file: it outlives this mapping, which touches
// nothing.
bool PreferNode(int fd, uint64_t offset, uint64_t bytes, int32_t node) {
  constexpr int32_t kBits = 64;
  if (node < 0 || node >= kBits || bytes == 0) return false;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off_t(offset));
  if (at == MAP_FAILED) return false;
  const unsigned long mask = 1ul << node;
  // One bit more than the mask has: the kernel counts from one.
  const long refused = syscall(SYS_mbind, at, bytes, MPOL_PREFERRED, &mask, kBits + 1, 0);
  munmap(at, bytes);
  return refused == 0;
}

}  // namespace ultraep

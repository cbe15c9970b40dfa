// A mapped shared segment: owned address range, and the checks before its first use.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "protocol/segment.h"

namespace ultraep {

class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& o) noexcept
      : base_(std::exchange(o.base_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  Mapping& operator=(Mapping&& o) noexcept {
    std::swap(base_, o.base_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~Mapping() {
    if (base_) munmap(base_, bytes_);
  }

  unsigned char* base() const { return base_; }
  uint64_t bytes() const { return bytes_; }

  // Empty on success. offset: a multiple of the page size. A forked child does not inherit the range
  // (MADV_DONTFORK): a data loader can neither write into it nor keep it alive.
  std::string Map(int fd, uint64_t offset, uint64_t bytes, bool writable) {
    void* at = mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd,
                    off_t(offset));
    if (at == MAP_FAILED)
      return "mmap of " + std::to_string(bytes) + " bytes: " + std::strerror(errno);
    madvise(at, bytes, MADV_DONTFORK);
    base_ = static_cast<unsigned char*>(at);
    bytes_ = bytes;
    return "";
  }

 private:
  unsigned char* base_ = nullptr;
  uint64_t bytes_ = 0;
};

// Is this descriptor the file it should be, of fixed length for good? Checked before mapping, so
// that a shrunk file cannot end the reader by SIGBUS. Empty when it is.
inline std::string CheckDescriptor(int fd, uint64_t bytes) {
  struct stat s;
  if (fstat(fd, &s)) return std::string("fstat: ") + std::strerror(errno);
  if (uint64_t(s.st_size) != bytes)
    return "a file of " + std::to_string(s.st_size) + " bytes, expected " + std::to_string(bytes);
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
    return "the file is not sealed against shrinking and growing";
  return "";
}

inline std::string CheckHeader(const unsigned char* base, const SegmentHeader& expected) {
  SegmentHeader found;
  CopyFromShared(&found, base, sizeof found);
  if (found == expected) return "";
  return "segment header of kind " + std::to_string(found.kind) + " rank " +
         std::to_string(found.rank) + " version " + std::to_string(found.version) +
         ", expected kind " + std::to_string(expected.kind) + " rank " +
         std::to_string(expected.rank) + " version " + std::to_string(expected.version);
}

}  // namespace ultraep

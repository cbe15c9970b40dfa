#include "daemon/memory/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace ultraep {

Descriptor MakeMemoryFile(const char* name, uint64_t bytes) {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  int fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
  if (fd < 0 && errno == EINVAL) fd = memfd_create(name, flags);  // before 6.3
  Descriptor file(fd);
  if (file && ftruncate(fd, off_t(bytes))) file.reset();
  return file;
}

bool AllocateMemoryFile(int file, uint64_t bytes) {
  while (fallocate(file, 0, 0, off_t(bytes)))
    if (errno != EINTR) return false;
  return true;
}

}  // namespace ultraep

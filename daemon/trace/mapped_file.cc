#include "daemon/trace/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "protocol/transport/seqpacket.h"

namespace ultraep::trace {

MappedFile::~MappedFile() {
  if (base_) munmap(base_, bytes_);
}

std::string MappedFile::Open(const std::string& path) {
  const auto error = [&path] { return path + ": cannot be read: " + std::strerror(errno); };
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return error();
  struct stat s;
  if (fstat(file.get(), &s)) return error();
  if (!S_ISREG(s.st_mode)) return path + ": is not a regular file";
  if (s.st_size == 0) return path + ": is empty";
  void* at = mmap(nullptr, size_t(s.st_size), PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (at == MAP_FAILED) return error();
  base_ = static_cast<char*>(at);
  bytes_ = size_t(s.st_size);
  return "";
}

}  // namespace ultraep::trace

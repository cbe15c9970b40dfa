#include "daemon/trace/npy_appender.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "protocol/npy.h"

namespace ultraep::trace {
namespace {

constexpr uint64_t kBufferBytes = 1 << 20;

// NpyHeader pads to 64; the header must keep its size while the number of rows grows.
std::string FixedHeader(const std::vector<uint64_t>& shape, const std::string& type) {
  std::string header = NpyHeader(shape, type);
  if (header.size() < kNpyHeaderBytes) {
    header.pop_back();
    header.append(kNpyHeaderBytes - 1 - header.size(), ' ');
    header += '\n';
    header[8] = char((kNpyHeaderBytes - 10) & 0xff);
    header[9] = char((kNpyHeaderBytes - 10) >> 8);
  }
  return header;
}

}  // namespace

bool WriteAt(int fd, const char* bytes, uint64_t count, uint64_t offset, uint64_t* done) {
  *done = 0;
  while (*done < count) {
    const ssize_t wrote = pwrite(fd, bytes + *done, count - *done, off_t(offset + *done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return false;
    *done += uint64_t(wrote);
  }
  return true;
}

std::string WriteError(const std::string& path, int error) {
  std::string text = path + ": cannot be written: " + std::strerror(error);
  if (error == ENOSPC || error == EDQUOT) text += "; free space, or write to another file system";
  if (error == EFBIG) text += "; raise `ulimit -f`, or give a lower --max-mib";
  if (error == EEXIST) text += "; choose another directory, or give --force to overwrite it";
  return text;
}

std::string NpyAppender::Create(const std::string& path, const std::vector<uint64_t>& row,
                                const char* type, uint32_t cell_bytes, int flags) {
  path_ = path;
  type_ = type;
  shape_.assign(1, 0);
  row_bytes_ = cell_bytes;
  for (const uint64_t n : row) {
    shape_.push_back(n);
    row_bytes_ *= n;
  }
  file_ = Descriptor(open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0644));
  if (!file_) return WriteError(path, errno);
  buffer_.reserve(kBufferBytes);
  return WriteHeader();
}

std::string NpyAppender::Append(const void* rows, uint64_t bytes) {
  const auto* from = static_cast<const char*>(rows);
  while (bytes > 0) {
    const uint64_t part = std::min(bytes, kBufferBytes - buffer_.size());
    buffer_.insert(buffer_.end(), from, from + part);
    from += part;
    bytes -= part;
    if (buffer_.size() < kBufferBytes) continue;
    if (std::string wrong = WriteBuffer(); !wrong.empty()) return wrong;
  }
  return "";
}

std::string NpyAppender::WriteBuffer() {
  uint64_t done = 0;
  const bool fine =
      WriteAt(file_.get(), buffer_.data(), buffer_.size(), kNpyHeaderBytes + written_, &done);
  const int error = errno;
  written_ += done;
  buffer_.erase(buffer_.begin(), buffer_.begin() + ptrdiff_t(done));
  return fine ? "" : WriteError(path_, error);
}

std::string NpyAppender::WriteHeader() {
  shape_[0] = written_ / row_bytes_;
  const std::string header = FixedHeader(shape_, type_);
  uint64_t done;
  if (WriteAt(file_.get(), header.data(), header.size(), 0, &done)) return "";
  return WriteError(path_, errno);
}

std::string NpyAppender::Flush() {
  const std::string wrong = WriteBuffer();
  const std::string header = WriteHeader();
  return wrong.empty() ? header : wrong;
}

}  // namespace ultraep::trace

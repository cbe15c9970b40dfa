#include "daemon/trace/ring_reader.h"

#include <sys/stat.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"

namespace ultraep::trace {

std::string RingReader::Map(int fd, const PlanShape& shape) {
  struct stat s;
  if (fstat(fd, &s)) return std::string("trace ring: fstat: ") + std::strerror(errno);
  const uint64_t bytes = uint64_t(s.st_size);
  if (std::string wrong = CheckDescriptor(fd, bytes); !wrong.empty()) return "trace ring: " + wrong;
  if (bytes <= sizeof(TraceRing))
    return absl::StrFormat("trace ring: %d bytes, its head alone has %d", bytes, sizeof(TraceRing));
  if (std::string wrong = mapping_.Map(fd, 0, bytes, true); !wrong.empty())
    return "trace ring: " + wrong;
  shape_ = shape;
  capacity_ = ring()->capacity.value.load(std::memory_order_relaxed);
  if (!std::has_single_bit(capacity_) || capacity_ < 8 || capacity_ > bytes - sizeof(TraceRing))
    return absl::StrFormat("trace ring: its capacity is %d, must be a power of two of at most %d",
                           capacity_, bytes - sizeof(TraceRing));
  tail_ = ring()->tail.value.load(std::memory_order_relaxed);
  return "";
}

// `at` and `bytes` are multiples of 8, as the capacity is: no word lies around the end.
void RingReader::Copy(uint64_t at, void* to, uint64_t bytes) const {
  AroundRing(capacity_, at, bytes, [&](uint64_t begin, uint64_t done, uint64_t part) {
    CopyFromShared(static_cast<char*>(to) + done, ring()->data() + begin, part);
  });
}

std::string RingReader::CheckRecord(const TraceRecord& record, uint64_t available) const {
  const uint64_t slots = uint64_t{shape_.ranks} * shape_.slots;
  if (record.replicas > slots)
    return absl::StrFormat("a step has %d replicas, the group has %d slots", record.replicas,
                           slots);
  const uint64_t bytes = TraceRecordBytes(shape_, record.replicas);
  if (record.bytes != bytes || bytes > available)
    return absl::StrFormat("a step says %d bytes, must have %d and has %d", record.bytes, bytes,
                           available);
  return "";
}

std::string RingReader::Take(RingStep* step, bool* any) {
  *any = false;
  const uint64_t head = ring()->head.value.load(std::memory_order_acquire);
  const uint64_t available = head - tail_;
  if (available == 0) return "";
  if (available > capacity_ || available % 8 || available < sizeof(TraceRecord))
    return absl::StrFormat("trace ring: %d bytes are said to be in it, it holds %d", available,
                           capacity_);
  Copy(tail_, &step->record, sizeof step->record);
  if (std::string wrong = CheckRecord(step->record, available); !wrong.empty())
    return "trace ring: " + wrong;
  const uint64_t cells = uint64_t{shape_.ranks} * shape_.experts;
  buffer_.resize(RoundUp(cells * 4, 8) / 8);
  Copy(tail_ + sizeof(TraceRecord), buffer_.data(), buffer_.size() * 8);
  step->tokens.resize(cells);
  std::memcpy(step->tokens.data(), buffer_.data(), cells * 4);
  step->replicas.resize(step->record.replicas);
  Copy(tail_ + sizeof(TraceRecord) + buffer_.size() * 8, step->replicas.data(),
       step->replicas.size() * sizeof(Replica));
  tail_ += step->record.bytes;
  ring()->tail.value.store(tail_, std::memory_order_release);
  *any = true;
  return "";
}

}  // namespace ultraep::trace

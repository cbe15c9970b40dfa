#include "plugin/examples/replay/copy_sampler.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "protocol/transport/waiting.h"

namespace ultraep::replay {
namespace {

// Some machines report the sum of all last-level caches; a process uses one of them.
constexpr uint64_t kLargestBuffer = 64 << 20;

uint64_t BufferBytes(uint64_t expert_bytes, uint32_t ranks) {
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const uint64_t wanted =
      cache > 0 ? std::min(2 * uint64_t(cache), kLargestBuffer) : kLargestBuffer;
  const uint64_t memory = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  return std::max(std::min(wanted, memory / 8 / ranks), expert_bytes);
}

}  // namespace

CopySampler::CopySampler(const ExpertShape& shape, uint32_t ranks)
    : up_bytes_(shape.up_floats() * sizeof(float)),
      down_bytes_(shape.down_floats() * sizeof(float)),
      buffer_(BufferBytes(up_bytes_ + down_bytes_, ranks), 1) {}

void CopySampler::Copy(const float* from, uint64_t bytes) {
  if (at_ + bytes > buffer_.size()) at_ = 0;
  std::memcpy(&buffer_[at_], from, bytes);
  at_ += bytes;
}

uint64_t CopySampler::KilobytesPerSecond(const std::vector<ExpertWeights>& experts) {
  const uint64_t start = NowNs();
  for (const ExpertWeights& expert : experts) {
    Copy(expert.up, up_bytes_);
    Copy(expert.down, down_bytes_);
  }
  const uint64_t ns = std::max<uint64_t>(NowNs() - start, 1);
  return experts.size() * (up_bytes_ + down_bytes_) * 1'000'000 / ns;
}

}  // namespace ultraep::replay

// What plain memcpy reaches for the copies that a rank has just streamed: the yardstick beside the
// stream's own rate, from the same process, in the same run.
#pragma once

#include <cstdint>
#include <vector>

#include "plugin/examples/replay/model_step.h"

namespace ultraep::replay {

class CopySampler {
 public:
  // The destination turns round in a buffer of twice the last-level cache (64 MiB at most), so that
  // it is cold as a remote slot is. Smaller where all ranks together would take more than 1/8 of
  // the memory.
  CopySampler(const ExpertShape& shape, uint32_t ranks);

  // Copies these experts once; kilobytes (1000) per second, 0 when there is nothing to copy.
  uint64_t KilobytesPerSecond(const std::vector<ExpertWeights>& experts);

 private:
  void Copy(const float* from, uint64_t bytes);

  const uint64_t up_bytes_, down_bytes_;
  std::vector<char> buffer_;  // written once here: no page faults while measuring
  uint64_t at_ = 0;
};

}  // namespace ultraep::replay

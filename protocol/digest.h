// 64-bit digest of a problem or a record. Not cryptographic: it finds torn and mistaken data, and
// lets two sides see that they speak of the same problem.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "protocol/host_device.h"

namespace ultraep {

class Digest {
 public:
  ULTRAEP_HOST_DEVICE void Add(uint64_t word) {
    state_ = (state_ ^ word) * 0xff51afd7ed558ccdull;
    state_ ^= state_ >> 32;
  }

  // `bytes` need not be a multiple of 8; the rest counts as zero padded. Four lanes, so that the
  // multiplications overlap.
  void AddBytes(const void* data, size_t bytes) {
    const auto* in = static_cast<const unsigned char*>(data);
    uint64_t lane[4] = {state_, ~state_, state_ + 1, state_ - 1};
    size_t at = 0;
    for (; at + 32 <= bytes; at += 32) {
      for (int k = 0; k < 4; ++k) {
        uint64_t word;
        std::memcpy(&word, in + at + 8 * k, 8);
        lane[k] = (lane[k] ^ word) * 0xc4ceb9fe1a85ec53ull;
        lane[k] ^= lane[k] >> 29;
      }
    }
    for (uint64_t l : lane) Add(l);
    for (; at < bytes; at += 8) {
      uint64_t word = 0;
      std::memcpy(&word, in + at, bytes - at < 8 ? bytes - at : 8);
      Add(word);
    }
    Add(bytes);
  }

  ULTRAEP_HOST_DEVICE uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0x9e3779b97f4a7c15ull;
};

}  // namespace ultraep

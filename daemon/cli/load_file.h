// Load matrices from an .npy file: recorded traces for planning offline.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/load.h"

namespace ultraep {

struct LoadFile {
  uint32_t ranks = 0;
  uint32_t experts = 0;
  uint64_t matrices = 0;
  std::vector<uint32_t> tokens;  // [matrix][rank][expert]

  LoadView view(uint64_t matrix) const {
    return {tokens.data() + matrix * ranks * experts, ranks, experts};
  }
};

// Empty, or what is wrong with the file, where, what is allowed and what to do.
std::string ReadLoadFile(const std::string& path, LoadFile* loads);

}  // namespace ultraep

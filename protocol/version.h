// One number for everything two processes must agree on: segment layouts, messages, the meaning of
// a plan. Exact match or refusal naming both.
#pragma once

#include <cstdint>

namespace ultraep {

inline constexpr uint32_t kMagic = 0x50455500;  // "\0UEP" in memory on little-endian machines
inline constexpr uint16_t kLayoutVersion = 7;
inline constexpr const char* kBuildVersion = "0.1.0";

}  // namespace ultraep

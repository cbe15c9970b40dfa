// bfloat16: the upper half of a float32. One conversion for host and device, so that both round the
// same way.
#pragma once

#include <cstdint>
#include <cstring>

#include "protocol/host_device.h"

namespace ultraep {

struct Bfloat16 {
  uint16_t bits;
};

inline ULTRAEP_HOST_DEVICE float ToFloat(Bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

// To nearest, ties to even; a NaN stays one (quiet, its sign kept).
inline ULTRAEP_HOST_DEVICE Bfloat16 ToBfloat16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return {uint16_t(nan ? bits >> 16 | 0x40u : rounded)};
}

}  // namespace ultraep

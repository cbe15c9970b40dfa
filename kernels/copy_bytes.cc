#include "kernels/copy_bytes.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace ultraep {

#ifdef __SSE2__
namespace {

constexpr size_t kLineBytes = 64;
// Below this the lines would be evicted one by one anyway; plain stores are faster.
constexpr size_t kSmall = 4 * kLineBytes;

// `to` is 64-byte aligned, `bytes` a multiple of 64. Whole lines, so that every write-combining
// buffer leaves the CPU full.
void StreamLinesSse2(char* to, const char* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kLineBytes) {
    const auto* in = reinterpret_cast<const __m128i*>(from + at);
    auto* out = reinterpret_cast<__m128i*>(to + at);
    const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
    const __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
}

__attribute__((target("avx"))) void StreamLinesAvx(char* to, const char* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kLineBytes) {
    const auto* in = reinterpret_cast<const __m256i*>(from + at);
    auto* out = reinterpret_cast<__m256i*>(to + at);
    const __m256i a = _mm256_loadu_si256(in), b = _mm256_loadu_si256(in + 1);
    _mm256_stream_si256(out, a);
    _mm256_stream_si256(out + 1, b);
  }
}

}  // namespace

void CopyNonTemporal(void* to, const void* from, size_t bytes) {
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
  if (bytes < kSmall) {
    if (bytes) std::memcpy(out, in, bytes);
    return;
  }
  static const bool has_avx = __builtin_cpu_supports("avx");
  const size_t head = -reinterpret_cast<uintptr_t>(out) % kLineBytes;
  const size_t lines = (bytes - head) / kLineBytes * kLineBytes;
  std::memcpy(out, in, head);
  (has_avx ? StreamLinesAvx : StreamLinesSse2)(out + head, in + head, lines);
  std::memcpy(out + head + lines, in + head + lines, bytes - head - lines);
}

void OrderCopies() { _mm_sfence(); }
#else
void CopyNonTemporal(void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}

void OrderCopies() {}
#endif

// Tile by tile: the first copy brings a tile into the nearest cache, the others find it there.
void CopyNonTemporal(void* const* to, size_t count, const void* from, size_t bytes) {
  constexpr size_t kTile = 8192;  // a quarter of that cache; whole lines
  const size_t tile = count > 1 ? kTile : bytes;
  for (size_t at = 0; at < bytes; at += tile)
    for (size_t i = 0; i < count; ++i)
      CopyNonTemporal(static_cast<char*>(to[i]) + at, static_cast<const char*>(from) + at,
                      std::min(tile, bytes - at));
}

}  // namespace ultraep

#include "daemon/planner/column_sums.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ultraep::planner {
namespace {

void SumFrom(LoadView load, uint32_t first, uint64_t* sums) {
  for (uint32_t e = first; e < load.experts; ++e) sums[e] = ExpertTokens(load, e);
}

// Compilers make vectors of this on any machine.
void SumPortable(LoadView load, uint64_t* sums) {
  constexpr uint32_t kBlock = 16;
  uint32_t e = 0;
  for (; e + kBlock <= load.experts; e += kBlock) {
    uint64_t block[kBlock] = {};
    const uint32_t* row = load.tokens + e;
    for (uint32_t r = 0; r < load.ranks; ++r, row += load.experts)
      for (uint32_t i = 0; i < kBlock; ++i) block[i] += row[i];
    for (uint32_t i = 0; i < kBlock; ++i) sums[e + i] = block[i];
  }
  SumFrom(load, e, sums);
}

#if defined(__x86_64__)
// Eight vectors of sums stay in registers while the rows go by. Written out because GCC 12 widens
// 32 to 64 bits in twice the instructions.
constexpr uint32_t kVectors = 8;

[[gnu::target("avx2")]] void SumAvx2(LoadView load, uint64_t* sums) {
  uint32_t e = 0;
  for (; e + kVectors * 4 <= load.experts; e += kVectors * 4) {
    __m256i block[kVectors] = {};
    const uint32_t* row = load.tokens + e;
    for (uint32_t r = 0; r < load.ranks; ++r, row += load.experts)
      for (uint32_t i = 0; i < kVectors; ++i) {
        const auto* cells = reinterpret_cast<const __m128i*>(row + i * 4);
        block[i] = _mm256_add_epi64(block[i], _mm256_cvtepu32_epi64(_mm_loadu_si128(cells)));
      }
    for (uint32_t i = 0; i < kVectors; ++i)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + e + i * 4), block[i]);
  }
  SumFrom(load, e, sums);
}
#endif

}  // namespace

Isa BestIsa() {
#if defined(__x86_64__)
  static const Isa best = __builtin_cpu_supports("avx2") ? Isa::kAvx2 : Isa::kPortable;
  return best;
#else
  return Isa::kPortable;
#endif
}

void ColumnSums(LoadView load, uint64_t* sums, Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return SumAvx2(load, sums);
#endif
  (void)isa;
  SumPortable(load, sums);
}

}  // namespace ultraep::planner

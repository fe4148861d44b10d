// Rows of a map as bits, one bit a column: the few intrinsics of the vector kernels, behind names.
// Everything is in the namespace of the instruction set that this source is compiled for (isa.h).
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace spatialonnx::SPATIALONNX_ISA {

// Bit i: whether row[i] is not zero (NaN is not), for i < columns <= 64.
static inline std::uint64_t nonzero_bits(const float* row, int columns) {
  std::uint64_t bits = 0;
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= columns; i += 16) {
    const std::uint64_t lanes =
        _mm512_cmp_ps_mask(_mm512_loadu_ps(row + i), _mm512_setzero_ps(), _CMP_NEQ_UQ);
    bits |= lanes << i;
  }
  if (i < columns) {
    const auto inside = static_cast<__mmask16>((1u << (columns - i)) - 1);
    const std::uint64_t lanes = _mm512_mask_cmp_ps_mask(
        inside, _mm512_maskz_loadu_ps(inside, row + i), _mm512_setzero_ps(), _CMP_NEQ_UQ);
    bits |= lanes << i;
  }
  return bits;
#endif
#if defined(__AVX2__)
  for (; i + 8 <= columns; i += 8) {
    const __m256 lanes = _mm256_cmp_ps(_mm256_loadu_ps(row + i), _mm256_setzero_ps(), _CMP_NEQ_UQ);
    bits |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm256_movemask_ps(lanes))) << i;
  }
#endif
#if defined(__SSE2__)
  for (; i + 4 <= columns; i += 4) {
    const __m128 lanes = _mm_cmpneq_ps(_mm_loadu_ps(row + i), _mm_setzero_ps());
    bits |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_ps(lanes))) << i;
  }
#endif
  for (; i < columns; ++i) bits |= static_cast<std::uint64_t>(!(row[i] == 0.0f)) << i;
  return bits;
}

// to[i] = bit i of keep ? from[i] : 0, for i < columns <= 64. `to` may be `from`.
static inline void copy_kept(const float* from, float* to, int columns, std::uint64_t keep) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= columns; i += 16) {
    _mm512_storeu_ps(to + i, _mm512_maskz_loadu_ps(static_cast<__mmask16>(keep >> i), from + i));
  }
  if (i < columns) {
    const auto inside = static_cast<__mmask16>((1u << (columns - i)) - 1);
    const auto lanes = static_cast<__mmask16>((keep >> i) & inside);
    _mm512_mask_storeu_ps(to + i, inside, _mm512_maskz_loadu_ps(lanes, from + i));
  }
  return;
#endif
#if defined(__AVX2__)
  const __m256i lane8 = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (; i + 8 <= columns; i += 8) {
    const __m256i bits = _mm256_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(keep >> i)));
    const __m256i lanes = _mm256_cmpeq_epi32(_mm256_and_si256(bits, lane8), lane8);
    _mm256_storeu_ps(to + i, _mm256_and_ps(_mm256_loadu_ps(from + i), _mm256_castsi256_ps(lanes)));
  }
#endif
#if defined(__SSE2__)
  const __m128i lane4 = _mm_setr_epi32(1, 2, 4, 8);
  for (; i + 4 <= columns; i += 4) {
    const __m128i bits = _mm_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(keep >> i)));
    const __m128i lanes = _mm_cmpeq_epi32(_mm_and_si128(bits, lane4), lane4);
    _mm_storeu_ps(to + i, _mm_and_ps(_mm_loadu_ps(from + i), _mm_castsi128_ps(lanes)));
  }
#endif
  for (; i < columns; ++i) to[i] = (keep >> i & 1) != 0 ? from[i] : 0.0f;
}

// The first `columns` bits.
static inline std::uint64_t first_bits(int columns) {
  return columns >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << columns) - 1;
}

// All bits of each group of p bits in which any bit is set.
template <int p>
static inline std::uint64_t spread_over_patches(std::uint64_t bits) {
  if constexpr (p == 2) return ((bits | bits >> 1) & 0x5555555555555555u) * 3;
  if constexpr (p == 3) return ((bits | bits >> 1 | bits >> 2) & 0x1249249249249249u) * 7;
  if constexpr (p == 4) {
    bits |= bits >> 1;
    return ((bits | bits >> 2) & 0x1111111111111111u) * 15;
  }
}

}  // namespace spatialonnx::SPATIALONNX_ISA

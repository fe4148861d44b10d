// Positions of a map as bits: the few intrinsics of the vector kernels, behind names.
// Everything is in the namespace of the instruction set that this source is compiled for (isa.h).
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace spatialonnx::SPATIALONNX_ISA {

// The first `count` bits of a word; all where there are 64 or more.
static inline std::uint64_t first_bits(std::int64_t count) {
  return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

// Bit i: whether x[i] is not zero (NaN is not), for i < count <= 64. Inlined, so that a constant
// count leaves straight code.
[[gnu::always_inline]] static inline std::uint64_t nonzero_bits(const float* x, int count) {
  std::uint64_t bits = 0;
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    const std::uint64_t lanes =
        _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_setzero_ps(), _CMP_NEQ_UQ);
    bits |= lanes << i;
  }
#endif
#if defined(__AVX2__)
  for (; i + 8 <= count; i += 8) {
    const __m256 lanes = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_NEQ_UQ);
    bits |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm256_movemask_ps(lanes))) << i;
  }
#endif
#if defined(__SSE2__)
  for (; i + 4 <= count; i += 4) {
    const __m128 lanes = _mm_cmpneq_ps(_mm_loadu_ps(x + i), _mm_setzero_ps());
    bits |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_ps(lanes))) << i;
  }
#endif
  for (; i < count; ++i) bits |= static_cast<std::uint64_t>(!(x[i] == 0.0f)) << i;
  return bits;
}

// Bit i: whether x[i] is above a limit (NaN is), for i < count <= 64.
[[gnu::always_inline]] static inline std::uint64_t above_bits(const float* x, int count,
                                                              float limit) {
  std::uint64_t bits = 0;
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    const std::uint64_t lanes =
        _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_set1_ps(limit), _CMP_NLE_UQ);
    bits |= lanes << i;
  }
#endif
#if defined(__AVX2__)
  for (; i + 8 <= count; i += 8) {
    const __m256 lanes = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(limit), _CMP_NLE_UQ);
    bits |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm256_movemask_ps(lanes))) << i;
  }
#endif
#if defined(__SSE2__)
  for (; i + 4 <= count; i += 4) {
    const __m128 lanes = _mm_cmpnle_ps(_mm_loadu_ps(x + i), _mm_set1_ps(limit));
    bits |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_ps(lanes))) << i;
  }
#endif
  for (; i < count; ++i) bits |= static_cast<std::uint64_t>(!(x[i] <= limit)) << i;
  return bits;
}

// 8-bit values, uint8 or int8, as the functions above for floats. Vectors of a whole word, or of
// what the instruction set has; the sign of an int8 is turned over, so that all compare as uint8.
template <class T>
[[gnu::always_inline]] static inline std::uint64_t different_bits(const T* x, int count, T zero) {
  std::uint64_t bits = 0;
  int i = 0;
#if defined(__AVX512BW__)
  if (count == 64) {
    return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(x),
                                   _mm512_set1_epi8(static_cast<char>(zero)));
  }
#endif
#if defined(__SSE2__)
  const __m128i zeros = _mm_set1_epi8(static_cast<char>(zero));
  for (; i + 16 <= count; i += 16) {
    const __m128i lanes =
        _mm_cmpeq_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)), zeros);
    bits |= static_cast<std::uint64_t>(static_cast<unsigned>(~_mm_movemask_epi8(lanes)) & 0xffff)
            << i;
  }
#endif
  for (; i < count; ++i) bits |= static_cast<std::uint64_t>(x[i] != zero) << i;
  return bits;
}

template <class T>
[[gnu::always_inline]] static inline std::uint64_t above_bits(const T* x, int count, T limit) {
  std::uint64_t bits = 0;
  int i = 0;
#if defined(__SSE2__)
  const __m128i turn = _mm_set1_epi8(static_cast<char>(static_cast<T>(-1) < 0 ? 0x80 : 0));
  const __m128i limits = _mm_xor_si128(_mm_set1_epi8(static_cast<char>(limit)), turn);
  for (; i + 16 <= count; i += 16) {
    const __m128i values =
        _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i)), turn);
    const __m128i within = _mm_cmpeq_epi8(_mm_max_epu8(values, limits), limits);
    bits |= static_cast<std::uint64_t>(static_cast<unsigned>(~_mm_movemask_epi8(within)) & 0xffff)
            << i;
  }
#endif
  for (; i < count; ++i) bits |= static_cast<std::uint64_t>(x[i] > limit) << i;
  return bits;
}

// y[i] = bit i of keep ? x[i] : zero, for i < count <= 64. y may be x.
template <class T>
[[gnu::always_inline]] static inline void copy_kept(const T* x, T* y, int count,
                                                    std::uint64_t keep, T zero) {
  int i = 0;
#if defined(__AVX512BW__)
  if (count == 64) {
    const __m512i zeros = _mm512_set1_epi8(static_cast<char>(zero));
    _mm512_storeu_si512(y, _mm512_mask_loadu_epi8(zeros, keep, x));
    return;
  }
#endif
  for (; i < count; ++i) y[i] = (keep >> i & 1) != 0 ? x[i] : zero;
}

// The same for floats.
[[gnu::always_inline]] static inline std::uint64_t different_bits(const float* x, int count,
                                                                  float) {
  return nonzero_bits(x, count);
}

// y[i] = bit i of keep ? x[i] : 0, for i < count <= 64. y may be x.
[[gnu::always_inline]] static inline void copy_kept(const float* x, float* y, int count,
                                                    std::uint64_t keep) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    _mm512_storeu_ps(y + i, _mm512_maskz_loadu_ps(static_cast<__mmask16>(keep >> i), x + i));
  }
#endif
#if defined(__AVX2__)
  const __m256i lane8 = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (; i + 8 <= count; i += 8) {
    const __m256i bits = _mm256_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(keep >> i)));
    const __m256i lanes = _mm256_cmpeq_epi32(_mm256_and_si256(bits, lane8), lane8);
    _mm256_storeu_ps(y + i, _mm256_and_ps(_mm256_loadu_ps(x + i), _mm256_castsi256_ps(lanes)));
  }
#endif
#if defined(__SSE2__)
  const __m128i lane4 = _mm_setr_epi32(1, 2, 4, 8);
  for (; i + 4 <= count; i += 4) {
    const __m128i bits = _mm_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(keep >> i)));
    const __m128i lanes = _mm_cmpeq_epi32(_mm_and_si128(bits, lane4), lane4);
    _mm_storeu_ps(y + i, _mm_and_ps(_mm_loadu_ps(x + i), _mm_castsi128_ps(lanes)));
  }
#endif
  for (; i < count; ++i) y[i] = (keep >> i & 1) != 0 ? x[i] : 0.0f;
}

[[gnu::always_inline]] static inline void copy_kept(const float* x, float* y, int count,
                                                    std::uint64_t keep, float) {
  copy_kept(x, y, count, keep);
}

// Positions of one cache line.
constexpr int kLine = 16;

// copy_kept of one line past the caches: writing a line that no cache holds would read it first,
// half as much traffic again. y has to be the start of a line; end_streaming has to follow.
[[gnu::always_inline]] static inline void stream_line(const float* x, float* y,
                                                      std::uint64_t keep) {
#if defined(__AVX512F__)
  _mm512_stream_ps(y, _mm512_maskz_loadu_ps(static_cast<__mmask16>(keep), x));
#elif defined(__AVX2__)
  const __m256i lane8 = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i bits = _mm256_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(keep)));
  for (int i = 0; i < kLine; i += 8) {
    const __m256i lane = _mm256_slli_epi32(lane8, i);
    const __m256i lanes = _mm256_cmpeq_epi32(_mm256_and_si256(bits, lane), lane);
    _mm256_stream_ps(y + i, _mm256_and_ps(_mm256_loadu_ps(x + i), _mm256_castsi256_ps(lanes)));
  }
#elif defined(__SSE2__)
  const __m128i lane4 = _mm_setr_epi32(1, 2, 4, 8);
  const __m128i bits = _mm_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(keep)));
  for (int i = 0; i < kLine; i += 4) {
    const __m128i lane = _mm_slli_epi32(lane4, i);
    const __m128i lanes = _mm_cmpeq_epi32(_mm_and_si128(bits, lane), lane);
    _mm_stream_ps(y + i, _mm_and_ps(_mm_loadu_ps(x + i), _mm_castsi128_ps(lanes)));
  }
#else
  copy_kept(x, y, kLine, keep);
#endif
}

// Positions from y to the start of a line.
static inline int to_line(const float* y) {
  const auto beyond = static_cast<int>(reinterpret_cast<std::uintptr_t>(y) / sizeof(float) % kLine);
  return beyond == 0 ? 0 : kLine - beyond;
}

// Asks for a line that will soon be read; it need not exist.
static inline void prefetch_line(const float* x) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(x)));
}

// Makes streamed positions visible to other threads.
static inline void end_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace spatialonnx::SPATIALONNX_ISA

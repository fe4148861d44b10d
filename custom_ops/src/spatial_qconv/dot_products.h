// Dot products of u8 inputs and s8 weights in int32, exact on every instruction set: what SpatialQConv's
// kernels are made of. Everything is in the namespace of the instruction set that the including
// source is compiled for (core/isa.h).
//
//   kLanes     int32 sums of a vector
//   kStep      products of one call of dot
//   kTileRows  by positions: as many rows as there are registers for
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#define UNROLL _Pragma("GCC unroll 32")
#define INLINE inline __attribute__((always_inline))
// Makes the compiler load a vector once, instead of folding the load into every use.
#if defined(__x86_64__)
#define KEEP(vector) asm("" : "+v"(vector))
#else
#define KEEP(vector) (void)(vector)
#endif

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

// unsigned: sums may wrap, which the compiler must not take for impossible.
#if defined(__AVX512VNNI__)

constexpr int kLanes = 16;
constexpr std::int64_t kStep = 64;
constexpr unsigned char kTileRows[] = {0, 12, 12, 8, 6};
constexpr std::uint8_t kInputFlip = 0;
#if defined(__AMX_INT8__)
#define HAS_TILES
#else
#define HAS_PANELS
constexpr int kPanelPositions = 12;
#endif
typedef unsigned Sums __attribute__((vector_size(64)));
typedef __m512i Inputs;
typedef __m512i Weights;
INLINE Inputs load_inputs(const std::uint8_t* x) { return _mm512_loadu_si512(x); }
INLINE Weights load_weights(const std::int8_t* w) { return _mm512_loadu_si512(w); }
INLINE Inputs broadcast_inputs(const std::uint8_t* x) {
  int four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}
INLINE Sums dot(Sums sums, Inputs x, Weights w) {
  return (Sums)_mm512_dpbusd_epi32((__m512i)sums, x, w);
}

#elif defined(__AVXVNNI__)

constexpr int kLanes = 8;
constexpr std::int64_t kStep = 32;
constexpr unsigned char kTileRows[] = {0, 8, 6, 4, 3};
constexpr std::uint8_t kInputFlip = 0;
#define HAS_PANELS
constexpr int kPanelPositions = 6;
typedef unsigned Sums __attribute__((vector_size(32)));
typedef __m256i Inputs;
typedef __m256i Weights;
INLINE Inputs load_inputs(const std::uint8_t* x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}
INLINE Weights load_weights(const std::int8_t* w) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
}
INLINE Inputs broadcast_inputs(const std::uint8_t* x) {
  int four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}
INLINE Sums dot(Sums sums, Inputs x, Weights w) {
  return (Sums)_mm256_dpbusd_avx_epi32((__m256i)sums, x, w);
}

#elif defined(__AVX2__)

// Products of bytes go through 16 bits, where the sum of two fits 32: vpmaddubsw would saturate.
constexpr int kLanes = 8;
constexpr std::int64_t kStep = 16;
constexpr unsigned char kTileRows[] = {0, 8, 5, 3, 2};
constexpr std::uint8_t kInputFlip = 0;
typedef unsigned Sums __attribute__((vector_size(32)));
typedef __m256i Inputs;
typedef __m256i Weights;
INLINE Inputs load_inputs(const std::uint8_t* x) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
INLINE Weights load_weights(const std::int8_t* w) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
}
INLINE Sums dot(Sums sums, Inputs x, Weights w) { return sums + (Sums)_mm256_madd_epi16(x, w); }

#elif defined(__SSE2__)

constexpr int kLanes = 4;
constexpr std::int64_t kStep = 8;
constexpr unsigned char kTileRows[] = {0, 8, 5, 3, 2};
constexpr std::uint8_t kInputFlip = 0;
typedef unsigned Sums __attribute__((vector_size(16)));
typedef __m128i Inputs;
typedef __m128i Weights;
INLINE Inputs load_inputs(const std::uint8_t* x) {
  return _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)),
                           _mm_setzero_si128());
}
INLINE Weights load_weights(const std::int8_t* w) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w));
  return _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
}
INLINE Sums dot(Sums sums, Inputs x, Weights w) { return sums + (Sums)_mm_madd_epi16(x, w); }

#elif defined(__ARM_FEATURE_DOTPROD)

// sdot multiplies s8 by s8: the map holds inputs less 128, the bias makes up for it.
constexpr int kLanes = 4;
constexpr std::int64_t kStep = 16;
constexpr unsigned char kTileRows[] = {0, 12, 12, 8, 6};
constexpr std::uint8_t kInputFlip = 128;
typedef unsigned Sums __attribute__((vector_size(16)));
typedef int8x16_t Inputs;
typedef int8x16_t Weights;
INLINE Inputs load_inputs(const std::uint8_t* x) {
  return vld1q_s8(reinterpret_cast<const std::int8_t*>(x));
}
INLINE Weights load_weights(const std::int8_t* w) { return vld1q_s8(w); }
INLINE Sums dot(Sums sums, Inputs x, Weights w) {
  return (Sums)vdotq_s32((int32x4_t)sums, x, w);
}

#else

constexpr int kLanes = 4;
constexpr std::int64_t kStep = 4;
constexpr unsigned char kTileRows[] = {0, 8, 5, 3, 2};
constexpr std::uint8_t kInputFlip = 0;
typedef unsigned Sums __attribute__((vector_size(16)));
typedef Sums Inputs;
typedef Sums Weights;
INLINE Inputs load_inputs(const std::uint8_t* x) { return Inputs{x[0], x[1], x[2], x[3]}; }
INLINE Weights load_weights(const std::int8_t* w) {
  typedef int Signed __attribute__((vector_size(16)));
  return (Weights)Signed{w[0], w[1], w[2], w[3]};
}
INLINE Sums dot(Sums sums, Inputs x, Weights w) { return sums + x * w; }

#endif

typedef unsigned Sums4 __attribute__((vector_size(16)));
typedef Sums4 UnalignedSums4 __attribute__((aligned(4), may_alias));
INLINE void store4(std::int32_t* out, Sums4 sums) {
  *reinterpret_cast<UnalignedSums4*>(out) = sums;
}

INLINE void store_sums(std::int32_t* out, Sums sums) { __builtin_memcpy(out, &sums, sizeof(sums)); }

// The sums over the lanes of four vectors.
INLINE Sums4 sum_lanes(Sums a, Sums b, Sums c, Sums d) {
#if defined(__AVX512VNNI__)
  // A blend takes either of two ports, a shuffle only one.
  const auto add_halves = [](Sums p, Sums q) {
    const __m512d x = (__m512d)p;
    const __m512d y = (__m512d)q;
    return (__m512)_mm512_add_epi32((__m512i)_mm512_mask_blend_pd(0xaa, x, y),
                                    (__m512i)_mm512_shuffle_pd(x, y, 0x55));
  };
  const __m512 ab = add_halves(a, b);
  const __m512 cd = add_halves(c, d);
  const __m512i abcd =
      _mm512_add_epi32((__m512i)_mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(2, 0, 2, 0)),
                       (__m512i)_mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 1, 3, 1)));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
  return (Sums4)_mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
#elif defined(__AVX2__)
  const __m256i ab = _mm256_hadd_epi32((__m256i)a, (__m256i)b);
  const __m256i cd = _mm256_hadd_epi32((__m256i)c, (__m256i)d);
  const __m256i abcd = _mm256_hadd_epi32(ab, cd);
  return (Sums4)_mm_add_epi32(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1));
#else
  const Sums ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Sums cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
#endif
}

}  // namespace
}  // namespace spatialonnx::SPATIALONNX_ISA

// From sums to outputs with AVX-512: compress and expand move only the channels that fired.
#pragma once

#include <immintrin.h>

#include "spatial_qconv/dot_products.h"
#include "spatial_qconv/kernels.h"

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

// What requantise.h says, sixteen outputs at a time. The constants are read once, as bytes that are
// written might be any object's.
class Finisher {
 public:
  INLINE Finisher(const Requantise& q, const QConvOutputs& outputs)
      : q_(q), y_(outputs.y), residual_(outputs.residual) {}

  // Sixteen neighbouring channels, of which there are `channels`.
  struct Lanes {
    std::int64_t channel;
    __mmask16 valid;
    __m512 scale;
    __m512i bias;
  };

  INLINE Lanes lanes(std::int64_t channel, std::int64_t channels) const {
    return {channel, static_cast<__mmask16>(channels >= 16 ? 0xffff : (1 << channels) - 1),
            _mm512_loadu_ps(q_.scale + channel), _mm512_loadu_si512(q_.bias + channel)};
  }

  INLINE void write(const Lanes& lanes, std::int64_t at, Sums sums) const {
    const __m128i residual =
        residual_ == nullptr ? _mm_setzero_si128()
                             : _mm_maskz_loadu_epi8(lanes.valid, residual_ + at + lanes.channel);
    _mm_mask_storeu_epi8(y_ + at + lanes.channel, lanes.valid,
                         finish((__m512i)sums, lanes.scale, lanes.bias, residual));
  }

  INLINE __m128i finish(__m512i sum, __m512 scale, __m512i bias, __m128i residual) const {
    const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum, bias)), scale);
    const __m512 clamped =
        _mm512_min_ps(_mm512_max_ps(value, _mm512_set1_ps(q_.least)), _mm512_set1_ps(q_.most));
    __m512i y = _mm512_add_epi32(_mm512_cvtps_epi32(clamped), _mm512_set1_epi32(q_.zero_point));
    if (q_.add) {
      const __m512 conv = _mm512_cvtepi32_ps(y);
      const __m512 other = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(residual));
      const __m512 conv_ratio = _mm512_set1_ps(q_.conv_ratio);
      const __m512 other_ratio = _mm512_set1_ps(q_.residual_ratio);
      const __m512 fixed = _mm512_set1_ps(q_.fixed);
      const __m512 total =
          q_.residual_first
              ? _mm512_fmadd_ps(other, other_ratio, _mm512_fmadd_ps(conv, conv_ratio, fixed))
              : _mm512_fmadd_ps(conv, conv_ratio, _mm512_fmadd_ps(other, other_ratio, fixed));
      y = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(total, _mm512_set1_ps(q_.y_zero_point)),
                                           _mm512_set1_ps(q_.y_max)));
    }
    return _mm512_cvtepi32_epi8(y);
  }

 private:
  const Requantise q_;
  std::uint8_t* const y_;
  const std::uint8_t* const residual_;
};

// The numbers of the bits that are set, in order.
INLINE __m512i bit_numbers(std::uint64_t bits) {
  alignas(64) static constexpr std::uint8_t kNumbers[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
      44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  return _mm512_maskz_compress_epi8(bits, _mm512_load_si512(kNumbers));
}

int list_rows(std::uint64_t bits, const std::int8_t* first, std::int64_t row_bytes,
              const std::int8_t** rows) {
  alignas(64) std::uint8_t numbers[64];
  _mm512_store_si512(numbers, bit_numbers(bits));
  const int count = __builtin_popcountll(bits);
  const __m512i start = _mm512_set1_epi64(reinterpret_cast<std::int64_t>(first));
  const __m512i bytes = _mm512_set1_epi64(row_bytes);  // below 2^32
  for (int i = 0; i < count; i += 8) {
    const __m512i number =
        _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(numbers + i)));
    _mm512_storeu_si512(rows + i, _mm512_add_epi64(start, _mm512_mul_epu32(number, bytes)));
  }
  return count;
}

std::uint64_t fired(const Requantise& q, const std::uint8_t* y, std::int64_t channel,
                    std::uint64_t members, const std::int64_t* at, int count) {
  const __m512i limit = _mm512_loadu_si512(q.limit + channel);
  std::uint64_t bits = 0;
  for (int j = 0; j < count; ++j) {
    bits |= _mm512_mask_cmpgt_epu8_mask(
        members, _mm512_maskz_loadu_epi8(members, y + at[j] + channel), limit);
  }
  return bits;
}

// Elements `numbers` (16 numbers below 64) of a table of 64.
INLINE __m512i pick16(const void* table, __m512i numbers) {
  const auto* rows = static_cast<const char*>(table);
  const auto row = [&](int i) { return _mm512_loadu_si512(rows + 64 * i); };
  const __m512i low = _mm512_permutex2var_epi32(row(0), numbers, row(1));
  const __m512i high = _mm512_permutex2var_epi32(row(2), numbers, row(3));
  return _mm512_mask_mov_epi32(low, _mm512_test_epi32_mask(numbers, _mm512_set1_epi32(32)), high);
}

// Bytes 16 i .. 16 i + 15 of a vector.
INLINE __m128i quarter(__m512i bytes, int i) {
  switch (i) {
    case 0: return _mm512_castsi512_si128(bytes);
    case 1: return _mm512_extracti32x4_epi32(bytes, 1);
    case 2: return _mm512_extracti32x4_epi32(bytes, 2);
    default: return _mm512_extracti32x4_epi32(bytes, 3);
  }
}

// Finishes `pieces` times 16 compact sums of every position. Memory that was just written in
// smaller pieces is not read here: a processor cannot forward it.
template <int pieces>
void finish_pieces(const Requantise& q, const QConvOutputs& outputs, std::int64_t channel,
                   std::uint64_t bits, std::uint64_t members, const std::int32_t* sums,
                   std::int64_t sums_stride, const std::int64_t* at, int positions) {
  const Finisher finisher(q, outputs);
  __m512 scale[pieces > 0 ? pieces : 1];
  __m512i bias[pieces > 0 ? pieces : 1];
  const __m512i numbers = bit_numbers(bits);
  UNROLL for (int i = 0; i < pieces; ++i) {
    const __m512i some = _mm512_cvtepu8_epi32(quarter(numbers, i));
    scale[i] = (__m512)pick16(q.scale + channel, some);
    bias[i] = pick16(q.bias + channel, some);
  }
  const __m512i zero = _mm512_set1_epi8(static_cast<char>(q.y_zero_point));
  for (int j = 0; j < positions; ++j) {
    __m512i beside = zero;
    if (outputs.residual != nullptr) {
      beside = _mm512_maskz_compress_epi8(
          bits, _mm512_maskz_loadu_epi8(bits, outputs.residual + at[j] + channel));
    }
    __m512i packed = zero;
    UNROLL for (int i = 0; i < pieces; ++i) {
      const __m128i y =
          finisher.finish(_mm512_loadu_si512(sums + j * sums_stride + 16 * i), scale[i], bias[i],
                          quarter(beside, i));
      if (i == 0) packed = _mm512_castsi128_si512(y);
      if (i == 1) packed = _mm512_inserti32x4(packed, y, 1);
      if (i == 2) packed = _mm512_inserti32x4(packed, y, 2);
      if (i == 3) packed = _mm512_inserti32x4(packed, y, 3);
    }
    _mm512_mask_storeu_epi8(outputs.y + at[j] + channel, members,
                            _mm512_mask_expand_epi8(zero, bits, packed));
  }
}

void finish(const Requantise& q, const QConvOutputs& outputs, std::int64_t channel,
            std::uint64_t bits, std::uint64_t members, const std::int32_t* sums,
            std::int64_t sums_stride, const std::int64_t* at, int positions) {
  static constexpr decltype(&finish_pieces<0>) kByPieces[] = {
      finish_pieces<0>, finish_pieces<1>, finish_pieces<2>, finish_pieces<3>, finish_pieces<4>};
  kByPieces[(__builtin_popcountll(bits) + 15) / 16](q, outputs, channel, bits, members, sums,
                                                    sums_stride, at, positions);
}

}  // namespace
}  // namespace spatialonnx::SPATIALONNX_ISA

// From sums to outputs in plain C++, which compilers turn into vectors where that pays.
#pragma once

#include "spatial_qconv/dot_products.h"
#include "spatial_qconv/kernels.h"

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

// Adding it rounds a number between -2^22 and 2^22 to nearest even, into the low bits.
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23

INLINE float clamp(float value, float least, float most) {
  value = value < least ? least : value;
  return value > most ? most : value;
}

INLINE std::int32_t round_even(float value) {
  const float rounded = value + kRound;
  std::int32_t bits;
  __builtin_memcpy(&bits, &rounded, 4);
  return (bits & 0x7fffff) - 0x400000;
}

// `count` outputs, as requantise.h says.
INLINE void finish_some(const Requantise& q, const std::int32_t* sums, const float* scale,
                        const std::int32_t* bias, const std::uint8_t* residual, int count,
                        std::uint8_t* out) {
  const Requantise c = q;  // by value: bytes that are written may alias anything
  std::int32_t conv[64];
  for (int i = 0; i < count; ++i) {
    const unsigned sum = static_cast<unsigned>(sums[i]) + static_cast<unsigned>(bias[i]);
    const float value = static_cast<float>(static_cast<std::int32_t>(sum)) * scale[i];
    conv[i] = round_even(clamp(value, c.least, c.most)) + c.zero_point;
  }
  if (c.add) {
    const auto least = static_cast<float>(c.y_zero_point);
    const auto most = static_cast<float>(c.y_max);
    for (int i = 0; i < count; ++i) {
      const auto mine = static_cast<float>(conv[i]);
      const auto other = static_cast<float>(residual[i]);
      const float a = c.residual_first ? other : mine;
      const float b = c.residual_first ? mine : other;
      const float a_ratio = c.residual_first ? c.residual_ratio : c.conv_ratio;
      const float b_ratio = c.residual_first ? c.conv_ratio : c.residual_ratio;
      const float total = __builtin_fmaf(a, a_ratio, __builtin_fmaf(b, b_ratio, c.fixed));
      conv[i] = round_even(clamp(total, least, most));
    }
  }
  for (int i = 0; i < count; ++i) out[i] = static_cast<std::uint8_t>(conv[i]);
}

// As finish_avx512.h has it.
class Finisher {
 public:
  INLINE Finisher(const Requantise& q, const QConvOutputs& outputs)
      : q_(q), y_(outputs.y), residual_(outputs.residual) {}

  struct Lanes {
    std::int64_t channel;
    int channels;
  };

  INLINE Lanes lanes(std::int64_t channel, std::int64_t channels) const {
    return {channel, channels >= kLanes ? kLanes : static_cast<int>(channels)};
  }

  INLINE void write(const Lanes& lanes, std::int64_t at, Sums sums) const {
    std::int32_t values[kLanes];
    __builtin_memcpy(values, &sums, sizeof values);
    const std::int64_t place = at + lanes.channel;
    finish_some(q_, values, q_.scale + lanes.channel, q_.bias + lanes.channel,
                residual_ == nullptr ? nullptr : residual_ + place, lanes.channels, y_ + place);
  }

 private:
  const Requantise q_;
  std::uint8_t* const y_;
  const std::uint8_t* const residual_;
};

int list_rows(std::uint64_t bits, const std::int8_t* first, std::int64_t row_bytes,
              const std::int8_t** rows) {
  int count = 0;
  for (; bits != 0; bits &= bits - 1) rows[count++] = first + __builtin_ctzll(bits) * row_bytes;
  return count;
}

// Bit i: whether y[i] > limit[i], for i < 64.
INLINE std::uint64_t above64(const std::uint8_t* y, const std::uint8_t* limit) {
  std::uint64_t bits = 0;
#if defined(__AVX2__)
  for (int i = 0; i < 64; i += 32) {
    const __m256i over = _mm256_subs_epu8(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y + i)),
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(limit + i)));
    const int none = _mm256_movemask_epi8(_mm256_cmpeq_epi8(over, _mm256_setzero_si256()));
    bits |= static_cast<std::uint64_t>(~static_cast<unsigned>(none)) << i;
  }
#else
  for (int i = 0; i < 64; ++i) bits |= static_cast<std::uint64_t>(y[i] > limit[i]) << i;
#endif
  return bits;
}

std::uint64_t fired(const Requantise& q, const std::uint8_t* y, std::int64_t channel,
                    std::uint64_t members, const std::int64_t* at, int count) {
  std::uint64_t bits = 0;
  const bool whole = members >> 63 != 0;  // the 64 channels are there
  for (int j = 0; j < count; ++j) {
    const std::uint8_t* outputs = y + at[j] + channel;
    if (whole) {
      bits |= above64(outputs, q.limit + channel);
      continue;
    }
    for (std::uint64_t left = members & ~bits; left != 0; left &= left - 1) {
      const int i = __builtin_ctzll(left);
      bits |= static_cast<std::uint64_t>(outputs[i] > q.limit[channel + i]) << i;
    }
  }
  return bits & members;
}

void finish(const Requantise& q, const QConvOutputs& outputs, std::int64_t channel,
            std::uint64_t bits, std::uint64_t members, const std::int32_t* sums,
            std::int64_t sums_stride, const std::int64_t* at, int positions) {
  float scale[64];
  std::int32_t bias[64];
  std::uint8_t number[64];
  int count = 0;
  for (std::uint64_t left = bits; left != 0; left &= left - 1, ++count) {
    number[count] = static_cast<std::uint8_t>(__builtin_ctzll(left));
    scale[count] = q.scale[channel + number[count]];
    bias[count] = q.bias[channel + number[count]];
  }
  std::uint8_t packed[64];
  std::uint8_t beside[64];
  for (int j = 0; j < positions; ++j) {
    std::uint8_t* y = outputs.y + at[j] + channel;
    if (outputs.residual != nullptr) {
      const std::uint8_t* residual = outputs.residual + at[j] + channel;
      for (int i = 0; i < count; ++i) beside[i] = residual[number[i]];
    }
    finish_some(q, sums + j * sums_stride, scale, bias, beside, count, packed);
    if (count == 64) {
      __builtin_memcpy(y, packed, 64);
      continue;
    }
    if (members == ~std::uint64_t{0}) {
      __builtin_memset(y, q.y_zero_point, 64);
    } else {
      for (std::uint64_t left = members & ~bits; left != 0; left &= left - 1) {
        y[__builtin_ctzll(left)] = q.y_zero_point;
      }
    }
    for (int i = 0; i < count; ++i) y[number[i]] = packed[i];
  }
}

}  // namespace
}  // namespace spatialonnx::SPATIALONNX_ISA

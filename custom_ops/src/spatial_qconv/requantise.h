// From an int32 sum to 8 bits: the arithmetic of ONNX Runtime's QLinearConv and QLinearAdd.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace spatialonnx {

// Constants of one node. Arrays are per output channel, with kRequantiseSlack readable elements
// behind the last.
//
// Without a residual: y = rne(clamp(float(sum + bias) * scale, 0, most)) + zero_point, where
// zero_point is Y's; the clamp at 0 is the ReLU. With one, the Conv's own 8 bits come first, with
// the whole range, and then the sum of both: y = rne(fma(a, a's ratio, fma(b, b's ratio, fixed))),
// clamped to [y_zero_point, y_max].
struct Requantise {
  const float* scale;        // x_scale * w_scale / y_scale (with a residual: / conv_scale)
  const std::int32_t* bias;  // B - x_zero_point * (sum of the channel's weights), and what the
                             // kernels' form of X asks for
  const std::uint8_t* limit;  // a probe fires where y is above it
  float least;                // of the Conv's 8 bits, its zero point subtracted
  float most;
  std::int32_t zero_point;  // of the Conv's 8 bits
  std::uint8_t y_zero_point;
  std::uint8_t y_max;
  bool add;             // a residual is added
  bool residual_first;  // the residual is a of the formula, the Conv is b
  float conv_ratio;     // conv_scale / y_scale
  float residual_ratio;
  float fixed;  // y_zero_point - (a's ratio * a's zero point + b's ratio * b's zero point)
};

// Channels that a kernel may read behind the last one.
inline constexpr std::int64_t kRequantiseSlack = 64;

// Round to nearest, ties to even, of a number between -2^22 and 2^22.
inline float round_even(float value) { return std::nearbyint(value); }

// One output. For the reference: vector kernels have their own.
inline std::uint8_t requantise(const Requantise& q, std::int64_t channel, std::int32_t sum,
                               std::uint8_t residual) {
  const auto biased = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) +
                                                static_cast<std::uint32_t>(q.bias[channel]));
  const float value = static_cast<float>(biased) * q.scale[channel];
  const float conv = round_even(std::clamp(value, q.least, q.most)) +
                     static_cast<float>(q.zero_point);
  if (!q.add) return static_cast<std::uint8_t>(conv);
  const auto other = static_cast<float>(residual);
  const float total =
      q.residual_first
          ? std::fma(other, q.residual_ratio, std::fma(conv, q.conv_ratio, q.fixed))
          : std::fma(conv, q.conv_ratio, std::fma(other, q.residual_ratio, q.fixed));
  return static_cast<std::uint8_t>(round_even(std::clamp(
      total, static_cast<float>(q.y_zero_point), static_cast<float>(q.y_max))));
}

}  // namespace spatialonnx

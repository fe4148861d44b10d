#include "ort/zero_limits.h"

#include <algorithm>
#include <limits>

#include "ort/patch_inputs.h"

namespace spatialonnx {
namespace {

// What a map of T holds at most for a probe to count as zero.
float largest_zero(float, float threshold) { return threshold; }

template <class T>
T largest_zero(T zero, std::uint8_t steps) {
  return static_cast<T>(std::min<int>(zero + steps, std::numeric_limits<T>::max()));
}

template <class T>
struct ThresholdOf {
  using Type = std::uint8_t;
};
template <>
struct ThresholdOf<float> {
  using Type = float;
};

}  // namespace

template <class T>
ZeroLimits<T>::ZeroLimits(const RunContext& context, std::size_t index, std::int64_t channels) {
  using Threshold = typename ThresholdOf<T>::Type;
  if (const auto zero_point = context.optional_input(index + 1, "zero_point")) {
    if constexpr (std::is_same_v<T, float>) {
      throw OpError("input zero_point goes with 8-bit maps, but X is float32");
    }
    zero_point->expect_rank(0, "a scalar, shape []");
    zero_ = *zero_point->template data<T>();
  }
  const auto threshold = context.optional_input(index, "threshold");
  if (!threshold) return;
  stride_ = check_threshold_shape(*threshold, channels);
  const Threshold* values = threshold->template data<Threshold>();
  const std::int64_t count = threshold->count();
  if constexpr (std::is_same_v<T, float>) check_threshold(threshold, channels);
  // One more than none: a map without channels has no limits, which is not the same as no threshold.
  limits_.emplace(context.scratch<T>(static_cast<std::size_t>(count + 1)));
  for (std::int64_t i = 0; i < count; ++i) {
    (*limits_)[static_cast<std::size_t>(i)] = largest_zero(zero_, values[i]);
  }
}

template class ZeroLimits<float>;
template class ZeroLimits<std::uint8_t>;
template class ZeroLimits<std::int8_t>;

}  // namespace spatialonnx

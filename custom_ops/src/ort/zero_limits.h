// What counts as zero in a map: the optional inputs `threshold` and `zero_point` of an op.
#pragma once

#include <cstdint>
#include <optional>

#include "ort/ort.h"

namespace spatialonnx {

// Checked, and as the kernels take it: the value that zeros have, and per channel the largest value
// that counts as zero. T is the element type of the map: float, std::uint8_t or std::int8_t.
template <class T>
class ZeroLimits {
 public:
  // Reads input `threshold` at `index` and input `zero_point` behind it. Throws OpError where the
  // threshold is not of shape [1] or [C], not finite or below 0, or the zero point no scalar.
  ZeroLimits(const RunContext& context, std::size_t index, std::int64_t channels);

  T zero() const { return zero_; }
  const T* data() const { return limits_ ? limits_->data() : nullptr; }  // null: no threshold
  std::int64_t stride() const { return stride_; }

 private:
  T zero_{};
  std::int64_t stride_ = 0;
  std::optional<Scratch<T>> limits_;
};

}  // namespace spatialonnx

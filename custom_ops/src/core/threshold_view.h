// Thresholds after their check.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace spatialonnx {

// A probe counts as zero when its value is <= its channel's threshold. Null: no thresholds are given.
struct ThresholdView {
  const float* values = nullptr;
  std::int64_t stride = 0;  // 0 where all channels share one

  SPATIALONNX_BOTH bool given() const { return values != nullptr; }
  SPATIALONNX_BOTH float at(std::int64_t channel) const { return values[channel * stride]; }
};

}  // namespace spatialonnx

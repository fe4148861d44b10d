// A mask after its check.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace spatialonnx {

// Patterns, and how far apart those of neighbouring channels, rows and columns of patches lie
// (0 where they share one).
struct MaskView {
  const std::uint16_t* patterns;
  std::int64_t channel_stride;
  std::int64_t row_stride;
  std::int64_t column_stride;

  SPATIALONNX_BOTH std::uint16_t at(std::int64_t channel, std::int64_t row,
                                    std::int64_t column) const {
    return patterns[channel * channel_stride + row * row_stride + column * column_stride];
  }
};

}  // namespace spatialonnx

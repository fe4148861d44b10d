// The zero-padded channels-last copy of X that SpatialConv's kernels read.
#pragma once

#include <cstdint>

#include "spatial_conv_kernels.h"
#include "spatial_conv_shape.h"

namespace spatialonnx {

// The product; throws OpError where it overflows.
std::int64_t checked_product(std::int64_t a, std::int64_t b);

// Of one image: [group][height][width][inputs].
struct PaddedMap {
  PaddedMap(const ConvAttributes& attributes, const ConvShape& shape);

  std::int64_t height;
  std::int64_t width;
  std::int64_t inputs;
  std::int64_t groups;
  std::int64_t used_rows;  // of X: those that any output reads
  std::int64_t map_floats;
  std::int64_t image_floats;
};

// Fills rows [first, last) of one group's map from its planes of X.
void convert_rows(const ConvKernels& kernels, const PaddedMap& map, const ConvShape& shape,
                  const float* const* planes, float* to, std::int64_t first, std::int64_t last);

}  // namespace spatialonnx

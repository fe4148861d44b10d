// The quantisation of a SpatialQConv node, read from its constant inputs.
#pragma once

#include <cstdint>

#include "core/aligned_array.h"
#include "ort/ort.h"
#include "spatial_conv/conv_shape.h"
#include "spatial_qconv/requantise.h"

namespace spatialonnx {

// Inputs of the op by number.
enum QConvInput : std::size_t {
  kX,
  kXScale,
  kXZeroPoint,
  kW,
  kWScale,
  kYScale,
  kYZeroPoint,
  kMask,
  kB,
  kResidual,
  kResidualScale,
  kResidualZeroPoint,
  kConvScale,
  kConvZeroPoint,
  kThreshold,
};

class QConvQuantisation {
 public:
  // For kernels that multiply X ^ input_flip (0 or 128). Throws OpError where an input is not a
  // constant, or not one that the op takes.
  QConvQuantisation(const NodeInfo& info, const ConvAttributes& attributes, int input_flip);
  QConvQuantisation(const QConvQuantisation&) = delete;

  const Requantise& requantise() const { return requantise_; }
  std::uint8_t x_zero_point() const { return x_zero_point_; }
  bool has_residual() const { return requantise_.add; }

 private:
  AlignedArray<float> scale_;
  AlignedArray<std::int32_t> bias_;
  AlignedArray<std::uint8_t> limit_;
  std::uint8_t x_zero_point_;
  Requantise requantise_;
};

}  // namespace spatialonnx

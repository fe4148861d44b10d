// SpatialConv: clip(relu(conv(X, W) + B + residual)) by patches; what the probes predict to be zero
// is not computed.
#pragma once

#include <cstdint>

#include "core/mask_view.h"
#include "core/threshold_view.h"
#include "spatial_conv/conv_shape.h"

namespace spatialonnx {

// One run of a node. The counts, where they are not null, are [N, C].
struct ConvTask {
  const ConvAttributes* attributes;
  const ConvShape* shape;
  MaskView mask;
  ThresholdView threshold;
  const float* x;
  const float* w;
  const float* bias;      // null: none
  const float* residual;  // null: none
  float* y;
  std::int64_t* skipped;  // outputs that were predicted
  std::int64_t* macs;     // MACs that were executed
};

namespace reference {

// What the engine (engine.h) computes, readable: planes (maps of one channel of one sample) first .. last - 1 of the N * C.
void conv_planes(const ConvTask& task, std::size_t first, std::size_t last);

}  // namespace reference
}  // namespace spatialonnx

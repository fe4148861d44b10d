// SpatialQConv: SpatialConv in 8 bit, channels last. What the probes predict to be zero is not
// computed.
#pragma once

#include <cstdint>

#include "ort/workers.h"
#include "spatial_conv/conv_shape.h"
#include "spatial_qconv/plan.h"
#include "spatial_qconv/requantise.h"

namespace spatialonnx {

// One run of a node. X is [N, H, W, Cin], Y and the residual are [N, oH, oW, C]; the counts, where
// they are not null, are [N, C].
struct QConvTask {
  const ConvAttributes* attributes;
  const ConvShape* shape;
  const Requantise* requantise;
  MaskView mask;
  std::uint8_t x_zero_point;
  const std::uint8_t* x;
  const std::int8_t* w;          // as the model has it; of the reference only
  std::int32_t x_offset;         // that the bias takes X to be reduced by; of the reference only
  const std::uint8_t* residual;  // null: none
  std::uint8_t* y;
  std::int64_t* skipped;  // outputs that were predicted
  std::int64_t* macs;     // MACs that were executed
};

// Every output written once; the counts are complete.
void run_spatial_qconv(const RunContext& context, const QConvTask& task, const QConvPlan& plan,
                       const QConvKernels& kernels, ThreadCount& threads);

namespace reference {

// The same, readable: planes (maps of one channel of one sample) first .. last - 1 of the N * C.
void qconv_planes(const QConvTask& task, std::size_t first, std::size_t last);

}  // namespace reference
}  // namespace spatialonnx

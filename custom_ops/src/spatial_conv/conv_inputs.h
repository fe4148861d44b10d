// What is checked of the inputs of a convolution, whichever op or provider it is for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "ort/ort.h"
#include "ort/patch_inputs.h"
#include "spatial_conv/conv_shape.h"

namespace spatialonnx {

// A constant input's tensor. Throws OpError where it is not a constant.
Tensor constant(const NodeInfo& info, std::size_t index, const char* name);

// Throws OpError unless the tensor has exactly this shape.
void check_shape(const Tensor& tensor, const char* name, std::span<const std::int64_t> takes);

// The optional input of thresholds. Throws OpError where it is given, but was not `constant` when the
// kernel was created.
std::optional<Tensor> constant_threshold(const RunContext& context, std::size_t index,
                                         bool constant);

// The grid that a mask is made for: of a mask for all patches, one patch. Throws OpError.
PatchGrid grid_of_mask(const ConvAttributes& attributes, const Tensor& mask);

struct ConvInputs {
  const float* bias;      // null: none
  const float* residual;  // null: none
};

// B and residual, and whether Y can be held. Throws OpError.
ConvInputs check_inputs(const RunContext& context, const ConvAttributes& attributes,
                        const ConvShape& shape);

}  // namespace spatialonnx

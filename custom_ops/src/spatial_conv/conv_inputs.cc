#include "spatial_conv/conv_inputs.h"

#include <algorithm>
#include <limits>

namespace spatialonnx {

void check_shape(const Tensor& tensor, const char* name, std::span<const std::int64_t> takes) {
  if (!std::ranges::equal(tensor.shape(), takes)) {
    throw OpError(std::string("input ") + name + " has shape " + shape_text(tensor.shape()) +
                  ", but takes " + shape_text(takes));
  }
}

namespace {

[[noreturn]] void refuse_input(const char* name) {
  throw OpError(std::string("input ") + name +
                " is fed or computed, but takes a constant: an initializer that is not an input");
}

}  // namespace

Tensor constant(const NodeInfo& info, std::size_t index, const char* name) {
  std::optional<Tensor> tensor = info.constant_input(index, name);
  if (!tensor) refuse_input(name);
  return *std::move(tensor);
}

std::optional<Tensor> constant_threshold(const RunContext& context, std::size_t index,
                                         bool constant) {
  std::optional<Tensor> threshold = context.optional_input(index, "threshold");
  if (threshold && !constant) refuse_input("threshold");
  return threshold;
}

PatchGrid grid_of_mask(const ConvAttributes& attributes, const Tensor& mask) {
  mask.expect_rank(3, "three dimensions, [C or 1, rows or 1, columns or 1]");
  const std::int64_t p = attributes.patch_size;
  if (mask.count() == 0 || mask.count() > std::numeric_limits<std::int32_t>::max()) {
    throw OpError("input mask has shape " + shape_text(mask.shape()) + ", which holds no patterns");
  }
  return {1, attributes.outputs, mask.dim(1) * p, mask.dim(2) * p, p};
}

ConvInputs check_inputs(const RunContext& context, const ConvAttributes& attributes,
                        const ConvShape& shape) {
  const auto bias = context.optional_input(3, "B");
  const auto residual = context.optional_input(4, "residual");
  const auto output_shape = shape.output_shape();
  const std::array<std::int64_t, 1> bias_shape{attributes.outputs};
  if (bias) check_shape(*bias, "B", bias_shape);
  if (residual) check_shape(*residual, "residual", output_shape);
  element_count(output_shape);
  return {bias ? bias->data<float>() : nullptr, residual ? residual->data<float>() : nullptr};
}

}  // namespace spatialonnx

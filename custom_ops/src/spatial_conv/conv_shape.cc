#include "spatial_conv/conv_shape.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spatialonnx {
namespace {

// Large enough for every map, small enough that the product of two such numbers fits an int64.
constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();

[[noreturn]] void refuse(const std::string& what, std::span<const std::int64_t> got,
                         const std::string& takes) {
  throw OpError(what + " is " + shape_text(got) + ", but takes " + takes);
}

std::vector<std::int64_t> integers_within(const NodeInfo& info, const char* name, std::size_t count,
                                          std::int64_t least) {
  const auto values = info.integers(name, std::vector<std::int64_t>(count, least));
  const bool fits = values.size() == count && std::ranges::all_of(values, [&](std::int64_t value) {
    return value >= least && value <= kLargest;
  });
  if (!fits) {
    refuse(std::string("attribute ") + name, values,
           std::to_string(count) + " integers of " + std::to_string(least) + " to " +
               std::to_string(kLargest));
  }
  return values;
}

PerAxis pair_of(const std::vector<std::int64_t>& values, std::size_t first = 0) {
  return {values[first], values[first + 1]};
}

AutoPad parse_auto_pad(const std::string& text) {
  if (text == "NOTSET") return AutoPad::notset;
  if (text == "VALID") return AutoPad::valid;
  if (text == "SAME_UPPER") return AutoPad::same_upper;
  if (text == "SAME_LOWER") return AutoPad::same_lower;
  throw OpError("attribute auto_pad is '" + text +
                "', but takes NOTSET, VALID, SAME_UPPER or SAME_LOWER");
}

}  // namespace

ConvAttributes::ConvAttributes(const NodeInfo& info, std::span<const std::int64_t> w_shape,
                               std::int64_t patch_size_otherwise)
    : stride(pair_of(integers_within(info, "strides", 2, 1))),
      dilation(pair_of(integers_within(info, "dilations", 2, 1))),
      auto_pad(parse_auto_pad(info.text("auto_pad", "NOTSET"))),
      groups(info.integer("group", 1)),
      patch_size(info.integer("patch_size", patch_size_otherwise)),
      clip_max(info.number("clip_max", std::numeric_limits<float>::infinity())) {
  const std::vector<std::int64_t> pads = integers_within(info, "pads", 4, 0);
  pad_begin = pair_of(pads);
  pad_end = pair_of(pads, 2);
  if (w_shape.size() != 4 || std::ranges::min(w_shape) < 1 || std::ranges::max(w_shape) > kLargest) {
    throw OpError("input W has shape " + shape_text(w_shape) +
                  ", but takes [Cout, Cin / group, kernel height, kernel width]");
  }
  outputs = w_shape[0];
  inputs = w_shape[1];
  kernel = {w_shape[2], w_shape[3]};
  const auto declared = info.integers("kernel_shape", {kernel[0], kernel[1]});
  if (!std::ranges::equal(declared, kernel)) {
    refuse("attribute kernel_shape", declared, shape_text(kernel) + ", the kernel of W");
  }
  if (groups < 1 || groups > outputs || outputs % groups != 0) {
    throw OpError("attribute group is " + std::to_string(groups) +
                  ", but takes a divisor of W's " + std::to_string(outputs) + " output channels");
  }
  if (patch_size < kMinPatchSize || patch_size > kMaxPatchSize) {
    throw OpError("attribute patch_size is " + std::to_string(patch_size) +
                  ", but takes 2, 3 or 4");
  }
  if (!(clip_max > 0)) {
    throw OpError("attribute clip_max is " + std::to_string(clip_max) +
                  ", but takes a number above 0");
  }
}

ConvShape::ConvShape(const ConvAttributes& attributes, const Tensor& x, bool channels_last) {
  x.expect_rank(4, channels_last ? "[N, H, W, C]" : "[N, C, H, W]");
  const std::size_t channel_axis = channels_last ? 3 : 1;
  const std::size_t height_axis = channels_last ? 1 : 2;
  if (std::ranges::max(x.shape()) > kLargest) {
    throw OpError("input X has shape " + shape_text(x.shape()) +
                  ", but takes dimensions below 2147483648");
  }
  if (x.dim(channel_axis) != attributes.inputs * attributes.groups) {
    throw OpError("input X has " + std::to_string(x.dim(channel_axis)) + " channels, but W and group take " +
                  std::to_string(attributes.inputs * attributes.groups));
  }
  batch = x.dim(0);
  for (std::size_t axis = 0; axis < 2; ++axis) {
    input[axis] = x.dim(height_axis + axis);
    const std::int64_t stride = attributes.stride[axis];
    const std::int64_t reach = (attributes.kernel[axis] - 1) * attributes.dilation[axis] + 1;
    std::int64_t before = 0;
    std::int64_t after = 0;
    if (attributes.auto_pad == AutoPad::notset) {
      before = attributes.pad_begin[axis];
      after = attributes.pad_end[axis];
    } else if (attributes.auto_pad != AutoPad::valid) {
      const std::int64_t outputs = (input[axis] + stride - 1) / stride;
      const std::int64_t both =
          std::max<std::int64_t>(0, (outputs - 1) * stride + reach - input[axis]);
      before = attributes.auto_pad == AutoPad::same_lower ? (both + 1) / 2 : both / 2;
      after = both - before;
    }
    const std::int64_t room = input[axis] + before + after - reach;
    if (room < 0) {
      throw OpError("a map of " + std::to_string(input[0]) + " x " +
                    std::to_string(x.dim(height_axis + 1)) + " with its padding is smaller than the kernel");
    }
    pad[axis] = before;
    output[axis] = room / stride + 1;
    if (output[axis] > kLargest) throw OpError("the output is larger than 2147483647 on one side");
  }
  grid = {batch, attributes.outputs, output[0], output[1], attributes.patch_size};
}

}  // namespace spatialonnx

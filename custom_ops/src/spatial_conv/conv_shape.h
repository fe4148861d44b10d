// What a SpatialConv (or SnapeaConv) node computes: its attributes, and the sizes that follow from its inputs.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/patch_grid.h"
#include "ort/ort.h"

namespace spatialonnx {

// One number for each axis of a map: height first, then width.
using PerAxis = std::array<std::int64_t, 2>;

enum class AutoPad { notset, valid, same_upper, same_lower };

// The attributes of ONNX Conv, and those that SpatialConv adds. Throws OpError where one of them,
// or the shape of W, is not what the op takes. `patch_size_otherwise` is what a node without that
// attribute has.
struct ConvAttributes {
  ConvAttributes(const NodeInfo& info, std::span<const std::int64_t> w_shape,
                 std::int64_t patch_size_otherwise = 0);

  PerAxis kernel;
  PerAxis stride;
  PerAxis dilation;
  PerAxis pad_begin;
  PerAxis pad_end;
  AutoPad auto_pad;
  std::int64_t groups;
  std::int64_t inputs;   // channels of X in one group
  std::int64_t outputs;  // channels of Y
  std::int64_t patch_size;
  float clip_max;

  // MACs of one output.
  std::int64_t macs() const { return inputs * kernel[0] * kernel[1]; }
};

// The sizes of one run. Throws OpError where X does not fit W, or where there is no output.
struct ConvShape {
  // X is [N, C, H, W]; with `channels_last` [N, H, W, C].
  ConvShape(const ConvAttributes& attributes, const Tensor& x, bool channels_last = false);

  std::int64_t batch;
  PerAxis input;    // H, W of X
  PerAxis output;   // H, W of Y
  PerAxis pad;      // zeros before the first row, the first column of X
  PatchGrid grid;  // of Y

  std::array<std::int64_t, 4> output_shape() const {
    return {batch, grid.channels, output[0], output[1]};
  }
};

}  // namespace spatialonnx

// What a SpatialConv node knows before its first run: weights in the kernels' order, and channels
// in blocks that are worked on together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/mask_view.h"
#include "core/threshold_view.h"
#include "spatial_conv/conv_shape.h"
#include "spatial_conv/kernels.h"

namespace spatialonnx {

// Zero-initialised floats aligned for vectors; in huge pages where they are many.
class AlignedFloats {
 public:
  AlignedFloats() = default;
  explicit AlignedFloats(std::size_t count);
  float* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(float* memory) const;
  };
  std::unique_ptr<float[], Free> memory_;
};

// Channels of one group whose weights fit the second-level cache together. In `order` (channels
// sorted by pattern) they are first .. first + count - 1.
struct ConvBlock {
  std::int64_t group;
  std::int64_t first;
  std::int64_t count;
  std::int64_t panels;    // the first panels * panel_channels channels have their weights twice
  std::int64_t panel_at;  // where those begin, in floats
  bool mixed;             // its channels differ in their patterns, patch by patch
};

struct ConvPlan {
  // `mask` has the given number of rows and columns of patches (1 x 1: one for all).
  ConvPlan(const ConvAttributes& attributes, const float* w, const MaskView& mask,
           PerAxis mask_patches, const ThresholdView& threshold, const ConvKernels& kernels);

  std::vector<std::int64_t> order;  // of the channels of Y
  std::vector<ConvBlock> blocks;
  std::int64_t segments;
  std::int64_t segment_length;
  std::int64_t filter_length;  // floats of a channel's weights, each segment in whole vectors
  AlignedFloats filters;       // [channel in order][segment][input]
  AlignedFloats panels;        // [panel][input][channel of it]
  AlignedFloats thresholds;    // [channel in order]: a probe fires unless it is <= this; 0 if none
  std::int64_t most_channels;  // of a block

  // Where channels of a block differ in their patterns patch by patch: for every block and patch
  // its channels (0 .. count - 1) sorted by pattern, at [first * patches + patch * count].
  std::vector<std::int32_t> sorted;

  // Channels of a position's finished outputs: whole panels, and whole vectors behind them.
  std::int64_t stride;

  // Of one position.
  std::int64_t inputs() const { return segments * segment_length; }
};

}  // namespace spatialonnx

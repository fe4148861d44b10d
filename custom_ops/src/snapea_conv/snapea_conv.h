// SnapeaConv: clip(relu(conv(X, W) + B + residual)), every sum taken in the order of Akhlaghi et al.,
// "SnaPEA: Predictive Early Activation for Reducing Computation in Deep Convolutional Neural
// Networks", ISCA 2018, and left as soon as it is known, or guessed, to end at or below zero.
// It simulates: what it counts, and what it gives, is what such a machine would do.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/mask_view.h"
#include "core/threshold_view.h"
#include "snapea_conv/snapea_order.h"
#include "spatial_conv/conv_shape.h"

namespace spatialonnx {

// One run of a node.
struct SnapeaTask {
  const ConvAttributes* attributes;
  const ConvShape* shape;
  SnapeaOrder order;
  const float* threshold;  // per channel; null where no channel has a head
  const MaskView* mask;    // null: nothing is predicted from neighbours
  ThresholdView mask_threshold;
  const float* x;
  const float* bias;      // null: none
  const float* residual;  // null: none
  float* y;
  std::int64_t* macs;  // [N, C]; null: not asked for
};

// Neighbouring outputs of one channel that are computed together.
inline constexpr int kSnapeaTile = 32;

// One kernel at the positions of one tile.
struct SnapeaTile {
  const float* columns;       // [taps][kSnapeaTile]: the inputs of every tap
  const std::int32_t* order;  // the taps, first to last
  const float* weights;       // theirs
  std::int64_t taps;
  std::int64_t head;       // of them before the threshold is looked at; 0: it is not
  std::int64_t unchecked;  // of them before sums <= 0 are left: the head and the positive weights
  float threshold;
  float clip_max;
  const float* start;  // [kSnapeaTile]: bias and residual
  float* y;            // [kSnapeaTile]
  std::int32_t* macs;  // [kSnapeaTile]
};

using SnapeaKernel = void (*)(const SnapeaTile& tile);

#define X(isa)                               \
  namespace isa {                            \
  void snapea_tile(const SnapeaTile& tile);  \
  }
SPATIALONNX_VECTOR_ISAS(X)
#undef X

// Everything, on ORT's threads.
void run_snapea_conv(const RunContext& context, const SnapeaTask& task, SnapeaKernel kernel);

// Applies the prediction rule to one finished plane of Y and drops the MACs of predicted outputs.
void drop_predicted(const SnapeaTask& task, std::int64_t channel, float* y, std::int32_t* macs);

namespace reference {

// Planes (maps of one channel of one sample) first .. last - 1 of the N * C, output by output.
// `macs` has room for the outputs of one plane.
void snapea_planes(const SnapeaTask& task, std::size_t first, std::size_t last,
                   std::int32_t* macs);

}  // namespace reference
}  // namespace spatialonnx

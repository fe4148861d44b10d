#include "spatial_conv/worker.h"

#include "core/checked.h"

namespace spatialonnx {

Worker::Worker(ScratchLayout& layout, const ConvRun& run)
    : band_rows(run.map, layout.take<float>(run.band_floats())) {
  const ConvPlan& plan = run.plan;
  const std::int64_t p = run.shape.grid.patch_size;
  const std::int64_t positions = run.bands.patches() * p * p;
  const std::int64_t staged = checked_product(positions, plan.stride) + kConvSlack;
  staging = layout.take<float>(staged);
  residual = run.task.residual != nullptr ? layout.take<float>(staged) : staging;
  sums = layout.take<float>(kMostPositions * sums_stride(plan) + kConvSlack);
  probe_x = layout.take<const float*>(positions);
  probe_out = layout.take<float*>(positions);
  probe_residual = layout.take<const float*>(positions);
  first_probe = layout.take<std::int32_t>(run.bands.patches() + 1);
  bits = layout.take<unsigned char>(plan.stride / 8);
  next_bits = layout.take<unsigned char>(plan.stride / 8);
  common_bits = layout.take<unsigned char>(plan.stride / 8);
  channels = layout.take<std::int32_t>(plan.stride + 8);
  filters = layout.take<const float*>(plan.stride);
  planes = layout.take<float*>(plan.stride);
  residual_planes = layout.take<const float*>(plan.stride);
  skipped = layout.take<std::int64_t>(plan.stride);
  computed = layout.take<std::int64_t>(plan.stride);
}

}  // namespace spatialonnx

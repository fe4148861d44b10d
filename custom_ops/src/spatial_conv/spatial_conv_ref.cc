// The reference of SpatialConv: nested loops, one output at a time.
#include "spatial_conv/spatial_conv.h"

namespace spatialonnx::reference {
namespace {

// One plane of Y and what its outputs are made of.
struct Plane {
  const ConvTask& task;
  std::int64_t sample;
  std::int64_t channel;

  std::int64_t index(std::int64_t row, std::int64_t column) const {
    const ConvShape& shape = *task.shape;
    return ((sample * shape.grid.channels + channel) * shape.output[0] + row) * shape.output[1] +
           column;
  }

  // conv + B + residual at one position.
  float pre_activation(std::int64_t row, std::int64_t column) const {
    const ConvAttributes& attributes = *task.attributes;
    const ConvShape& shape = *task.shape;
    const std::int64_t group = channel / (attributes.outputs / attributes.groups);
    float sum = 0;
    for (std::int64_t i = 0; i < attributes.inputs; ++i) {
      const std::int64_t plane =
          (sample * attributes.groups + group) * attributes.inputs + i;
      for (std::int64_t ky = 0; ky < attributes.kernel[0]; ++ky) {
        const std::int64_t y =
            row * attributes.stride[0] + ky * attributes.dilation[0] - shape.pad[0];
        if (y < 0 || y >= shape.input[0]) continue;
        for (std::int64_t kx = 0; kx < attributes.kernel[1]; ++kx) {
          const std::int64_t x =
              column * attributes.stride[1] + kx * attributes.dilation[1] - shape.pad[1];
          if (x < 0 || x >= shape.input[1]) continue;
          const std::int64_t weight =
              ((channel * attributes.inputs + i) * attributes.kernel[0] + ky) *
                  attributes.kernel[1] +
              kx;
          sum += task.x[(plane * shape.input[0] + y) * shape.input[1] + x] * task.w[weight];
        }
      }
    }
    if (task.bias != nullptr) sum += task.bias[channel];
    if (task.residual != nullptr) sum += task.residual[index(row, column)];
    return sum;
  }

  // Computes one output; returns whether it fires as a probe.
  bool compute(std::int64_t row, std::int64_t column) const {
    const float sum = pre_activation(row, column);
    const bool zero = sum <= 0;
    const float clip_max = task.attributes->clip_max;
    const float y = zero ? 0.0f : sum > clip_max ? clip_max : sum;
    task.y[index(row, column)] = y;
    // Not "above": NaN fires.
    return !(y <= (task.threshold.given() ? task.threshold.at(channel) : 0.0f));
  }
};

struct Counts {
  std::int64_t skipped = 0;
  std::int64_t computed = 0;
};

void conv_patch(const Plane& plane, std::int64_t patch_row, std::int64_t patch_column,
                Counts& counts) {
  const ConvTask& task = plane.task;
  const PerAxis& size = task.shape->output;
  const std::int64_t p = task.shape->grid.patch_size;
  const unsigned pattern = task.mask.at(plane.channel, patch_row, patch_column);
  const auto each = [&](bool probes, auto&& body) {
    for (std::int64_t i = 0; i < p * p; ++i) {
      const std::int64_t row = patch_row * p + i / p;
      const std::int64_t column = patch_column * p + i % p;
      const bool inside = row < size[0] && column < size[1];
      if (inside && (pattern >> i & 1) == (probes ? 1u : 0u)) body(row, column);
    }
  };
  bool blind = true;
  bool fired = false;
  each(true, [&](std::int64_t row, std::int64_t column) {
    blind = false;
    fired |= plane.compute(row, column);
    ++counts.computed;
  });
  each(false, [&](std::int64_t row, std::int64_t column) {
    if (fired || blind) {
      plane.compute(row, column);
      ++counts.computed;
    } else {
      task.y[plane.index(row, column)] = 0;
      ++counts.skipped;
    }
  });
}

}  // namespace

void conv_planes(const ConvTask& task, std::size_t first, std::size_t last) {
  const PatchGrid& grid = task.shape->grid;
  for (std::size_t i = first; i < last; ++i) {
    const auto plane = static_cast<std::int64_t>(i);
    Counts counts;
    for (std::int64_t row = 0; row < grid.rows(); ++row) {
      for (std::int64_t column = 0; column < grid.columns(); ++column) {
        conv_patch({task, plane / grid.channels, plane % grid.channels}, row, column, counts);
      }
    }
    if (task.skipped != nullptr) task.skipped[plane] = counts.skipped;
    if (task.macs != nullptr) task.macs[plane] = counts.computed * task.attributes->macs();
  }
}

}  // namespace spatialonnx::reference

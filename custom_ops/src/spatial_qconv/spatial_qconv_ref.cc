// The reference of SpatialQConv: nested loops, one output at a time.
#include "spatial_qconv/spatial_qconv.h"

namespace spatialonnx::reference {
namespace {

// One plane of Y and what its outputs are made of.
struct Plane {
  const QConvTask& task;
  std::int64_t sample;
  std::int64_t channel;

  std::int64_t index(std::int64_t row, std::int64_t column) const {
    const ConvShape& shape = *task.shape;
    return ((sample * shape.output[0] + row) * shape.output[1] + column) * shape.grid.channels +
           channel;
  }

  // X at a position of the padded map.
  std::uint8_t input(std::int64_t row, std::int64_t column, std::int64_t input_channel) const {
    const ConvShape& shape = *task.shape;
    const std::int64_t y = row - shape.pad[0];
    const std::int64_t x = column - shape.pad[1];
    if (y < 0 || y >= shape.input[0] || x < 0 || x >= shape.input[1]) return task.x_zero_point;
    const std::int64_t channels = task.attributes->inputs * task.attributes->groups;
    return task.x[((sample * shape.input[0] + y) * shape.input[1] + x) * channels + input_channel];
  }

  std::int32_t sum(std::int64_t row, std::int64_t column) const {
    const ConvAttributes& attributes = *task.attributes;
    const std::int64_t group = channel / (attributes.outputs / attributes.groups);
    const std::int8_t* weight = task.w + channel * attributes.macs();
    std::int32_t total = 0;
    for (std::int64_t i = 0; i < attributes.inputs; ++i) {
      for (std::int64_t ky = 0; ky < attributes.kernel[0]; ++ky) {
        for (std::int64_t kx = 0; kx < attributes.kernel[1]; ++kx) {
          const std::uint8_t x = input(row * attributes.stride[0] + ky * attributes.dilation[0],
                                       column * attributes.stride[1] + kx * attributes.dilation[1],
                                       group * attributes.inputs + i);
          total += *weight++ * (x - task.x_offset);
        }
      }
    }
    return total;
  }

  // Computes one output; returns whether it fires as a probe.
  bool compute(std::int64_t row, std::int64_t column) const {
    const std::int64_t at = index(row, column);
    task.y[at] = requantise(*task.requantise, channel, sum(row, column),
                            task.residual == nullptr ? std::uint8_t{0} : task.residual[at]);
    return task.y[at] > task.requantise->limit[channel];
  }
};

// Returns the number of positions that were predicted.
std::int64_t conv_patch(const Plane& plane, std::int64_t patch_row, std::int64_t patch_column) {
  const QConvTask& task = plane.task;
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
  std::int64_t skipped = 0;
  each(true, [&](std::int64_t row, std::int64_t column) {
    blind = false;
    fired |= plane.compute(row, column);
  });
  each(false, [&](std::int64_t row, std::int64_t column) {
    if (fired || blind) {
      plane.compute(row, column);
    } else {
      task.y[plane.index(row, column)] = task.requantise->y_zero_point;
      ++skipped;
    }
  });
  return skipped;
}

}  // namespace

void qconv_planes(const QConvTask& task, std::size_t first, std::size_t last) {
  const PatchGrid& grid = task.shape->grid;
  for (std::size_t i = first; i < last; ++i) {
    const auto plane = static_cast<std::int64_t>(i);
    std::int64_t skipped = 0;
    for (std::int64_t row = 0; row < grid.rows(); ++row) {
      for (std::int64_t column = 0; column < grid.columns(); ++column) {
        skipped += conv_patch({task, plane / grid.channels, plane % grid.channels}, row, column);
      }
    }
    if (task.skipped != nullptr) task.skipped[plane] = skipped;
    if (task.macs != nullptr) {
      task.macs[plane] = (grid.map_size() - skipped) * task.attributes->macs();
    }
  }
}

}  // namespace spatialonnx::reference

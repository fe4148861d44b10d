// The reference of SnapeaConv: nested loops, one output at a time.
#include "snapea_conv/snapea_conv.h"

namespace spatialonnx {
namespace reference {
namespace {

struct Output {
  const SnapeaTask& task;
  std::int64_t sample;
  std::int64_t channel;
  std::int64_t row;
  std::int64_t column;

  // The input of one tap; 0 in the padding.
  float input(std::int64_t tap) const {
    const ConvAttributes& attributes = *task.attributes;
    const ConvShape& shape = *task.shape;
    const std::int64_t area = attributes.kernel[0] * attributes.kernel[1];
    const std::int64_t ky = tap % area / attributes.kernel[1];
    const std::int64_t kx = tap % attributes.kernel[1];
    const std::int64_t y = row * attributes.stride[0] + ky * attributes.dilation[0] - shape.pad[0];
    const std::int64_t x =
        column * attributes.stride[1] + kx * attributes.dilation[1] - shape.pad[1];
    if (y < 0 || y >= shape.input[0] || x < 0 || x >= shape.input[1]) return 0.0f;
    const std::int64_t group = channel / (attributes.outputs / attributes.groups);
    const std::int64_t plane =
        (sample * attributes.groups + group) * attributes.inputs + tap / area;
    return task.x[(plane * shape.input[0] + y) * shape.input[1] + x];
  }

  // Computes it; returns the MACs that were done.
  std::int32_t compute(float* y) const {
    const std::int64_t taps = task.attributes->macs();
    const std::int32_t* order = task.order.taps + channel * taps;
    const float* weights = task.order.weights + channel * taps;
    const std::int32_t head = task.order.head[channel];
    const ConvShape& shape = *task.shape;
    const std::int64_t index =
        ((sample * shape.grid.channels + channel) * shape.output[0] + row) * shape.output[1] +
        column;
    float sum = task.bias != nullptr ? task.bias[channel] : 0.0f;
    if (task.residual != nullptr) sum += task.residual[index];
    *y = 0.0f;
    for (std::int32_t i = 0; i < taps; ++i) {
      if (head > 0 && i == head && sum <= task.threshold[channel]) return i;
      if (i >= task.order.unchecked[channel] && sum <= 0) return i;
      sum += weights[i] * input(order[i]);
    }
    const auto all = static_cast<std::int32_t>(taps);
    if (head == all && sum <= task.threshold[channel]) return all;
    if (!(sum <= 0)) *y = sum > task.attributes->clip_max ? task.attributes->clip_max : sum;
    return all;
  }
};

}  // namespace

void snapea_planes(const SnapeaTask& task, std::size_t first, std::size_t last,
                   std::int32_t* macs) {
  const ConvShape& shape = *task.shape;
  const std::int64_t outputs = shape.grid.map_size();
  for (std::size_t i = first; i < last; ++i) {
    const auto plane = static_cast<std::int64_t>(i);
    const std::int64_t channel = plane % shape.grid.channels;
    float* y = task.y + plane * outputs;
    for (std::int64_t row = 0; row < shape.output[0]; ++row) {
      for (std::int64_t column = 0; column < shape.output[1]; ++column) {
        const std::int64_t at = row * shape.output[1] + column;
        const Output output{task, plane / shape.grid.channels, channel, row, column};
        macs[at] = output.compute(y + at);
      }
    }
    if (task.mask != nullptr) drop_predicted(task, channel, y, macs);
    if (task.macs == nullptr) continue;
    std::int64_t total = 0;
    for (std::int64_t at = 0; at < outputs; ++at) total += macs[at];
    task.macs[plane] = total;
  }
}

}  // namespace reference

void drop_predicted(const SnapeaTask& task, std::int64_t channel, float* y, std::int32_t* macs) {
  const PatchGrid& grid = task.shape->grid;
  const std::int64_t p = grid.patch_size;
  const float threshold = task.mask_threshold.given() ? task.mask_threshold.at(channel) : 0.0f;
  for (std::int64_t patch_row = 0; patch_row < grid.rows(); ++patch_row) {
    for (std::int64_t patch_column = 0; patch_column < grid.columns(); ++patch_column) {
      const unsigned pattern = task.mask->at(channel, patch_row, patch_column);
      const auto each = [&](bool probes, auto&& body) {
        for (std::int64_t i = 0; i < p * p; ++i) {
          const std::int64_t row = patch_row * p + i / p;
          const std::int64_t column = patch_column * p + i % p;
          const bool inside = row < grid.height && column < grid.width;
          if (inside && (pattern >> i & 1) == (probes ? 1u : 0u)) body(row * grid.width + column);
        }
      };
      bool blind = true;
      bool fired = false;
      each(true, [&](std::int64_t at) {
        blind = false;
        fired |= !(y[at] <= threshold);  // NaN fires
      });
      if (blind || fired) continue;
      each(false, [&](std::int64_t at) {
        y[at] = 0;
        macs[at] = 0;
      });
    }
  }
}

}  // namespace spatialonnx

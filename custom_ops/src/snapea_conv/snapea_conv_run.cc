// A run of SnapeaConv: a task per sample and group, tiles of positions within.
#include <algorithm>

#include "snapea_conv/snapea_conv.h"

namespace spatialonnx {
namespace {

using std::int64_t;

// Consecutive outputs of one row of Y within a tile.
struct Run {
  int64_t row;
  int64_t column;
  int64_t count;
  int64_t at;  // its place in the tile
};

// What one run of a tile reads for one tap.
void gather(const SnapeaTask& task, const float* plane, int64_t ky, int64_t kx, const Run& run,
            float* column) {
  const ConvAttributes& attributes = *task.attributes;
  const ConvShape& shape = *task.shape;
  float* out = column + run.at;
  const int64_t y =
      run.row * attributes.stride[0] + ky * attributes.dilation[0] - shape.pad[0];
  if (y < 0 || y >= shape.input[0]) {
    std::fill_n(out, run.count, 0.0f);
    return;
  }
  const int64_t stride = attributes.stride[1];
  const int64_t first = run.column * stride + kx * attributes.dilation[1] - shape.pad[1];
  // Outputs [low, high) of the run read within the row.
  const int64_t low = std::clamp<int64_t>(first < 0 ? (-first + stride - 1) / stride : 0, 0,
                                          run.count);
  const int64_t room = shape.input[1] - first;
  const int64_t high =
      std::clamp<int64_t>(room > 0 ? (room + stride - 1) / stride : 0, low, run.count);
  std::fill_n(out, low, 0.0f);
  const float* row = plane + y * shape.input[1];
  if (stride == 1) {
    std::copy_n(row + first + low, high - low, out + low);
  } else {
    for (int64_t i = low; i < high; ++i) out[i] = row[first + i * stride];
  }
  std::fill_n(out + high, run.count - high, 0.0f);
}

// One sample's outputs of one group of channels.
class Task {
 public:
  Task(const RunContext& context, const SnapeaTask& task, SnapeaKernel kernel, std::size_t number)
      : task_(task),
        kernel_(kernel),
        sample_(static_cast<int64_t>(number) / task.attributes->groups),
        group_(static_cast<int64_t>(number) % task.attributes->groups),
        channels_(task.attributes->outputs / task.attributes->groups),
        taps_(task.attributes->macs()),
        outputs_(task.shape->grid.map_size()),
        columns_(context.scratch<float>(static_cast<std::size_t>(taps_) * kSnapeaTile)),
        totals_(context.scratch<int64_t>(static_cast<std::size_t>(channels_))),
        macs_(context.scratch<std::int32_t>(
            task.mask == nullptr
                ? 0
                : static_cast<std::size_t>(channels_) * static_cast<std::size_t>(outputs_))) {}

  void run() {
    std::fill_n(totals_.data(), channels_, 0);
    for (int64_t first = 0; first < outputs_; first += kSnapeaTile) {
      const int64_t count = std::min<int64_t>(kSnapeaTile, outputs_ - first);
      fill_columns(first, count);
      for (int64_t c = 0; c < channels_; ++c) run_tile(c, first, count);
    }
    for (int64_t c = 0; c < channels_; ++c) {
      if (task_.mask != nullptr) {
        std::int32_t* macs = macs_.data() + c * outputs_;
        drop_predicted(task_, channel(c), task_.y + plane(c) * outputs_, macs);
        for (int64_t i = 0; i < outputs_; ++i) totals_[static_cast<std::size_t>(c)] += macs[i];
      }
      if (task_.macs != nullptr) task_.macs[plane(c)] = totals_[static_cast<std::size_t>(c)];
    }
  }

 private:
  int64_t channel(int64_t c) const { return group_ * channels_ + c; }
  int64_t plane(int64_t c) const { return sample_ * task_.attributes->outputs + channel(c); }

  void fill_columns(int64_t first, int64_t count) {
    const ConvAttributes& attributes = *task_.attributes;
    const ConvShape& shape = *task_.shape;
    if (count < kSnapeaTile) std::fill_n(columns_.data(), taps_ * kSnapeaTile, 0.0f);
    Run runs[kSnapeaTile];
    int64_t number = 0;
    for (int64_t at = 0; at < count;) {
      const int64_t column = (first + at) % shape.output[1];
      const int64_t length = std::min(count - at, shape.output[1] - column);
      runs[number++] = {(first + at) / shape.output[1], column, length, at};
      at += length;
    }
    const float* x = task_.x + (sample_ * attributes.groups + group_) * attributes.inputs *
                                   shape.input[0] * shape.input[1];
    float* column = columns_.data();
    for (int64_t i = 0; i < attributes.inputs; ++i, x += shape.input[0] * shape.input[1]) {
      for (int64_t ky = 0; ky < attributes.kernel[0]; ++ky) {
        for (int64_t kx = 0; kx < attributes.kernel[1]; ++kx, column += kSnapeaTile) {
          for (int64_t j = 0; j < number; ++j) gather(task_, x, ky, kx, runs[j], column);
        }
      }
    }
  }

  void run_tile(int64_t c, int64_t first, int64_t count) {
    const int64_t index = channel(c);
    float start[kSnapeaTile];
    float y[kSnapeaTile];
    std::int32_t macs[kSnapeaTile];
    std::fill_n(start, kSnapeaTile, task_.bias == nullptr ? 0.0f : task_.bias[index]);
    const int64_t at = plane(c) * outputs_ + first;
    if (task_.residual != nullptr) {
      for (int64_t i = 0; i < count; ++i) start[i] += task_.residual[at + i];
    }
    std::fill_n(start + count, kSnapeaTile - count, -1.0f);
    kernel_({
        .columns = columns_.data(),
        .order = task_.order.taps + index * taps_,
        .weights = task_.order.weights + index * taps_,
        .taps = taps_,
        .head = task_.order.head[index],
        .unchecked = task_.order.unchecked[index],
        .threshold = task_.threshold == nullptr ? 0.0f : task_.threshold[index],
        .clip_max = task_.attributes->clip_max,
        .start = start,
        .y = y,
        .macs = macs,
    });
    std::copy_n(y, count, task_.y + at);
    if (task_.mask != nullptr) {
      std::copy_n(macs, count, macs_.data() + c * outputs_ + first);
    } else {
      for (int64_t i = 0; i < count; ++i) totals_[static_cast<std::size_t>(c)] += macs[i];
    }
  }

  const SnapeaTask& task_;
  const SnapeaKernel kernel_;
  const int64_t sample_;
  const int64_t group_;
  const int64_t channels_;
  const int64_t taps_;
  const int64_t outputs_;
  Scratch<float> columns_;
  Scratch<int64_t> totals_;
  Scratch<std::int32_t> macs_;
};

}  // namespace

void run_snapea_conv(const RunContext& context, const SnapeaTask& task, SnapeaKernel kernel) {
  const auto tasks = static_cast<std::size_t>(task.shape->batch * task.attributes->groups);
  context.parallel_for(tasks, [&](std::size_t i) { Task(context, task, kernel, i).run(); });
}

}  // namespace spatialonnx

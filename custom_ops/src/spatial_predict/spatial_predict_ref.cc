// SpatialPredict, patch by patch and position by position: slow, and plainly the rule.
#include <algorithm>

#include "spatial_predict/spatial_predict.h"

namespace spatialonnx::reference {
namespace {

// NaN is not zero, and not within a limit.
template <class T>
bool fires(const PredictTask<T>& task, std::int64_t channel, T value) {
  if (task.limits == nullptr) return !(value == task.zero);
  return !(value <= task.limits[channel * task.limit_stride]);
}

template <class T>
void predict(const PredictTask<T>& task, std::size_t first, std::size_t last) {
  const PatchGrid& grid = task.grid;
  const std::int64_t p = grid.patch_size;
  for (std::size_t plane = first; plane < last; ++plane) {
    const std::int64_t channel = static_cast<std::int64_t>(plane) % grid.channels;
    const T* x = task.x + static_cast<std::int64_t>(plane) * grid.map_size();
    T* y = task.y + static_cast<std::int64_t>(plane) * grid.map_size();
    std::int64_t skipped = 0;
    std::int64_t false_zero = 0;
    for (std::int64_t row = 0; row < grid.rows(); ++row) {
      for (std::int64_t column = 0; column < grid.columns(); ++column) {
        const std::int64_t height = std::min(p, grid.height - row * p);
        const std::int64_t width = std::min(p, grid.width - column * p);
        const unsigned pattern = task.mask.at(channel, row, column);
        const std::int64_t corner = row * p * grid.width + column * p;
        std::int64_t probes = 0;
        std::int64_t fired = 0;
        for (std::int64_t r = 0; r < height; ++r) {
          for (std::int64_t c = 0; c < width; ++c) {
            if ((pattern >> (r * p + c) & 1) == 0) continue;
            ++probes;
            if (fires(task, channel, x[corner + r * grid.width + c])) ++fired;
          }
        }
        const bool predicted = probes > 0 && fired == 0;  // no probe inside the map: blind
        for (std::int64_t r = 0; r < height; ++r) {
          for (std::int64_t c = 0; c < width; ++c) {
            const std::int64_t at = corner + r * grid.width + c;
            const T value = x[at];
            const bool skip = predicted && (pattern >> (r * p + c) & 1) == 0;
            skipped += skip;
            false_zero += skip && !(value == task.zero);
            y[at] = skip ? task.zero : value;
          }
        }
      }
    }
    if (task.skipped != nullptr) task.skipped[plane] = skipped;
    if (task.false_zero != nullptr) task.false_zero[plane] = false_zero;
  }
}

}  // namespace

void predict_planes(const PredictTask<float>& task, std::size_t first, std::size_t last) {
  predict(task, first, last);
}

void predict_planes(const PredictTask<std::uint8_t>& task, std::size_t first, std::size_t last) {
  predict(task, first, last);
}

void predict_planes(const PredictTask<std::int8_t>& task, std::size_t first, std::size_t last) {
  predict(task, first, last);
}

}  // namespace spatialonnx::reference

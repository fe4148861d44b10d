// SpatialPredict, patch by patch and position by position: slow, and plainly the rule.
#include <algorithm>

#include "spatial_predict/spatial_predict.h"

namespace spatialonnx::reference {

void predict_planes(const PredictTask& task, std::size_t first, std::size_t last) {
  const PatchGrid& grid = task.grid;
  const std::int64_t p = grid.patch_size;
  for (std::size_t plane = first; plane < last; ++plane) {
    const std::int64_t channel = static_cast<std::int64_t>(plane) % grid.channels;
    const float* x = task.x + static_cast<std::int64_t>(plane) * grid.map_size();
    float* y = task.y + static_cast<std::int64_t>(plane) * grid.map_size();
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
            if (!(x[corner + r * grid.width + c] == 0.0f)) ++fired;  // NaN is not zero
          }
        }
        const bool predicted = probes > 0 && fired == 0;  // no probe inside the map: blind
        for (std::int64_t r = 0; r < height; ++r) {
          for (std::int64_t c = 0; c < width; ++c) {
            const std::int64_t at = corner + r * grid.width + c;
            const float value = x[at];
            const bool skip = predicted && (pattern >> (r * p + c) & 1) == 0;
            skipped += skip;
            false_zero += skip && !(value == 0.0f);
            y[at] = skip ? 0.0f : value;
          }
        }
      }
    }
    if (task.skipped != nullptr) task.skipped[plane] = skipped;
    if (task.false_zero != nullptr) task.false_zero[plane] = false_zero;
  }
}

}  // namespace spatialonnx::reference

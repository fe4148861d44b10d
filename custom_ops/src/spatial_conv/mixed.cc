// A job whose channels differ in their patterns, patch by patch: in every patch the channels that
// share a pattern are worked on together.
#include <algorithm>

#include "spatial_conv/job.h"

namespace spatialonnx {

using std::int64_t;

float Job::finished(float sum, int64_t channel, const float* residual) const {
  sum += run_.bias[block_.first + channel];
  if (task_.residual != nullptr) sum += residual[channel];
  sum = sum <= 0 ? 0 : sum;
  return sum > run_.attributes.clip_max ? run_.attributes.clip_max : sum;
}

// The outputs of some channels at some positions.
void Job::compute_rows(const std::int32_t* channels, int64_t count, const Positions& at) {
  for (int64_t i = 0; i < count; ++i) {
    worker_.rows[i] = plan_.rows.data() + (block_.first + channels[i]) * plan_.row_length;
  }
  multiply(count, at.x, at.count);
  for (int j = 0; j < at.count; ++j) {
    for (int64_t i = 0; i < count; ++i) {
      const std::int32_t c = channels[i];
      at.out[j][c] = finished(worker_.sums[j * sums_stride() + i], c, at.residual[j]);
    }
  }
  if (!counts()) return;
  for (int64_t i = 0; i < count; ++i) worker_.computed[channels[i]] += at.count;
}

// Channels that share a pattern in this patch.
void Job::finish_alike(const Places& places, const PatchStart& patch, const std::int32_t* channels,
                       int64_t count) {
  Positions probes;
  add_positions(patch, places.probe, places.probes, probes);
  Positions others;
  add_positions(patch, places.other, places.others, others);
  compute_rows(channels, count, probes);
  int64_t fired = 0;
  for (int64_t i = 0; i < count; ++i) {
    const std::int32_t c = channels[i];
    const bool fires = std::any_of(probes.out, probes.out + probes.count,
                                   [c](const float* out) { return out[c] != 0; });
    if (fires) {
      worker_.channels[fired++] = c;
      continue;
    }
    for (int j = 0; j < others.count; ++j) others.out[j][c] = 0;
    worker_.skipped[c] += others.count;
  }
  if (fired > 0 && others.count > 0) compute_rows(worker_.channels, fired, others);
}

void Job::finish_mixed_patch(const PatchStart& patch) {
  const int64_t row = patch_row_ + patch.row;
  const int64_t column = patch_column_ + patch.column;
  const int64_t patches = grid_.rows() * grid_.columns();
  const std::int32_t* sorted = plan_.sorted.data() + block_.first * patches +
                               (row * grid_.columns() + column) * block_.count;
  const auto pattern_of = [&](std::int32_t c) {
    return task_.mask.at(plan_.order[static_cast<std::size_t>(block_.first + c)], row, column);
  };
  for (int64_t first = 0; first < block_.count;) {
    int64_t last = first + 1;
    while (last < block_.count && pattern_of(sorted[last]) == pattern_of(sorted[first])) ++last;
    finish_alike(places(patch.row, patch.column, block_.first + sorted[first]), patch,
                 sorted + first, last - first);
    first = last;
  }
}

void Job::finish_mixed_patches() {
  for (int64_t row = 0; row < patch_rows_; ++row) {
    for (int64_t column = 0; column < patch_columns_; ++column) {
      finish_mixed_patch(start(row, column));
    }
  }
}

}  // namespace spatialonnx

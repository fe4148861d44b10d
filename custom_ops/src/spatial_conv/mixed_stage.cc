#include "spatial_conv/mixed_stage.h"

#include <algorithm>

#include "spatial_conv/tiles.h"

namespace spatialonnx {
namespace {

using std::int64_t;

// Some channels of the block.
struct Channels {
  const std::int32_t* numbers;
  int64_t count;
};

float finished(const Job& job, float sum, int64_t channel, const float* residual) {
  sum += job.run.bias[job.block.first + channel];
  if (job.run.task.residual != nullptr) sum += residual[channel];
  sum = sum <= 0 ? 0 : sum;
  return sum > job.run.attributes.clip_max ? job.run.attributes.clip_max : sum;
}

// The outputs of some channels at some positions.
void compute(const Job& job, const Channels& channels, const Positions& at) {
  Worker& worker = job.worker;
  for (int64_t i = 0; i < channels.count; ++i) {
    worker.filters[i] = job.filter(channels.numbers[i]);
  }
  multiply(job, channels.count, at.x, at.count);
  const int64_t stride = sums_stride(job.run.plan);
  for (int j = 0; j < at.count; ++j) {
    for (int64_t i = 0; i < channels.count; ++i) {
      const std::int32_t c = channels.numbers[i];
      at.out[j][c] = finished(job, worker.sums[j * stride + i], c, at.residual[j]);
    }
  }
  if (!job.run.counts()) return;
  for (int64_t i = 0; i < channels.count; ++i) worker.computed[channels.numbers[i]] += at.count;
}

// Channels that share a pattern in this patch.
void finish_alike(const Job& job, const PatchStart& patch, const Places& places,
                  const Channels& channels) {
  Worker& worker = job.worker;
  Positions probes;
  probes.add(job, patch, places.probe, places.probes);
  Positions others;
  others.add(job, patch, places.other, places.others);
  compute(job, channels, probes);
  const float* thresholds = job.run.plan.thresholds.data() + job.block.first;
  int64_t fired = 0;
  for (int64_t i = 0; i < channels.count; ++i) {
    const std::int32_t c = channels.numbers[i];
    // Not "above": NaN fires.
    const bool fires = std::any_of(probes.out, probes.out + probes.count, [&](const float* out) {
      return !(out[c] <= thresholds[c]);
    });
    if (fires) {
      worker.channels[fired++] = c;
      continue;
    }
    for (int j = 0; j < others.count; ++j) others.out[j][c] = 0;
    worker.skipped[c] += others.count;
  }
  if (fired > 0 && others.count > 0) compute(job, {worker.channels, fired}, others);
}

void finish_patch(const Job& job, const PatchStart& patch) {
  const ConvRun& run = job.run;
  const PatchGrid& grid = run.shape.grid;
  const int64_t row = job.patches.first_row + patch.row;
  const int64_t column = job.patches.first_column + patch.column;
  const int64_t count = job.block.count;
  const std::int32_t* sorted = run.plan.sorted.data() +
                               job.block.first * grid.rows() * grid.columns() +
                               (row * grid.columns() + column) * count;
  const auto pattern_of = [&](std::int32_t c) {
    return run.task.mask.at(run.channel(job.block.first + c), row, column);
  };
  for (int64_t first = 0; first < count;) {
    int64_t last = first + 1;
    while (last < count && pattern_of(sorted[last]) == pattern_of(sorted[first])) ++last;
    const Places places =
        job.patches.places(patch.row, patch.column, job.block.first + sorted[first]);
    finish_alike(job, patch, places, {sorted + first, last - first});
    first = last;
  }
}

}  // namespace

void compute_mixed(Job& job) {
  for (int64_t row = 0; row < job.patches.rows; ++row) {
    for (int64_t column = 0; column < job.patches.columns; ++column) {
      finish_patch(job, job.patches.start(row, column));
    }
  }
}

}  // namespace spatialonnx

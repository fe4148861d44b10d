#include "spatial_conv/band_io.h"

#include <algorithm>

namespace spatialonnx {
namespace {

using std::int64_t;

// Positions that follow each other in a plane: all of a band that is as wide as its map, or a row.
struct Runs {
  explicit Runs(const BandPatches& band, int64_t map_width) {
    const bool whole = band.width == map_width;
    count = whole ? 1 : band.height;
    length = whole ? band.height * band.width : band.width;
  }

  int64_t count;
  int64_t length;
};

}  // namespace

void prepare_planes(const Job& job) {
  const BandPatches& band = job.patches;
  const PatchGrid& grid = job.run.shape.grid;
  float** planes = job.worker.planes;
  for (int64_t c = 0; c < job.block.count; ++c) {
    const int64_t channel = job.run.channel(job.block.first + c);
    planes[c] = job.run.task.y + (job.image * grid.channels + channel) * grid.map_size();
  }
  // So many streams of writes are more than a processor follows by itself.
  const Runs runs(band, grid.width);
  for (int64_t c = 0; c < job.block.count; ++c) {
    for (int64_t i = 0; i < runs.count; ++i) {
      const float* line = planes[c] + (band.y + i) * grid.width + band.x;
      for (int64_t q = 0; q < runs.length; q += kConvLine) __builtin_prefetch(line + q, 1, 2);
    }
  }
}

void read_residual(const Job& job) {
  const ConvRun& run = job.run;
  if (run.task.residual == nullptr) return;
  const BandPatches& band = job.patches;
  const PatchGrid& grid = run.shape.grid;
  const float** planes = job.worker.residual_planes;
  for (int64_t c = 0; c < job.block.count; ++c) {
    const int64_t channel = run.channel(job.block.first + c);
    planes[c] = run.task.residual + (job.image * grid.channels + channel) * grid.map_size();
  }
  for (int64_t y = 0; y < band.height; ++y) {
    for (int64_t x = 0; x < band.width; x += kMostPositions) {
      const int count = static_cast<int>(std::min<int64_t>(kMostPositions, band.width - x));
      float* pixels[kMostPositions];
      for (int q = 0; q < count; ++q) {
        pixels[q] = job.worker.residual + (y * band.width + x + q) * run.plan.stride;
      }
      run.kernels.gather(planes, job.block.count, (band.y + y) * grid.width + band.x + x, count,
                         pixels);
    }
  }
}

void write_planes(const Job& job) {
  const BandPatches& band = job.patches;
  const int64_t stride = job.run.plan.stride;
  const int64_t width = job.run.shape.grid.width;
  const Runs runs(band, width);
  for (int64_t i = 0; i < runs.count; ++i) {
    job.run.kernels.scatter(job.worker.staging + i * runs.length * stride, stride, runs.length,
                            job.worker.planes, job.block.count, (band.y + i) * width + band.x);
  }
}

}  // namespace spatialonnx

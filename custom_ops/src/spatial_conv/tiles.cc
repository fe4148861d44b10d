#include "spatial_conv/tiles.h"

namespace spatialonnx {
namespace {

using std::int64_t;

// Tiles of `across` positions each, beside each other.
void multiply_filters(const Job& job, int64_t count, const float* const* x, int positions,
                      int across, float* sums) {
  const ConvKernels& kernels = job.run.kernels;
  const int64_t stride = sums_stride(job.run.plan);
  const int64_t most = kernels.tile_filters[across];
  for (int64_t i = 0; i < count;) {
    const int64_t left = count - i;
    // The last two tiles share what is left evenly: a tile of one filter is slow.
    const int64_t down = left <= most ? left : left >= most + 3 ? most : (left + 1) / 2;
    // Tiles beside each other find the weights in the first-level cache.
    for (int j = 0; j < positions; j += across) {
      const std::uintptr_t ahead = job.worker.prefetch.take(job.run.plan.filter_length / 2);
      kernels.tile[across][down].choose(ahead)(job.run.span, job.worker.filters + i, x + j, ahead,
                                               sums + j * stride + i, stride);
    }
    i += down;
  }
}

}  // namespace

void multiply(const Job& job, int64_t count, const float* const* x, int positions) {
  for (int j = 0; j < positions;) {
    const int across = job.run.kernels.first_tile[positions - j];
    const int together = (positions - j) % across == 0 ? positions - j : across;
    multiply_filters(job, count, x + j, together, across,
                     job.worker.sums + j * sums_stride(job.run.plan));
    j += together;
  }
}

}  // namespace spatialonnx

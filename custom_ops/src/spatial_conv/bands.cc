#include "spatial_conv/bands.h"

#include <algorithm>

namespace spatialonnx {
namespace {

using std::int64_t;

// Enough positions that stage 1 divides into whole tiles, few enough that they stay in cache.
constexpr int64_t kBandPositions = 96;
// Of a map too small to give every thread such bands.
constexpr int64_t kSmallBandPositions = 24;
constexpr int64_t kMostBandColumns = 128;
// Jobs per thread, from which on one more or less no longer matters.
constexpr int64_t kManyJobs = 8;

}  // namespace

Bands::Bands(const PatchGrid& grid, int64_t least_positions) {
  const int64_t p = grid.patch_size;
  rows = grid.rows();
  patch_columns = std::min(grid.columns(), kMostBandColumns / p);
  across = (grid.columns() + patch_columns - 1) / patch_columns;
  const int64_t row_positions = p * std::min(grid.width, patch_columns * p);
  const int64_t least = (least_positions + row_positions - 1) / row_positions;
  down = std::max<int64_t>(1, rows / least);
}

// A band is the part of a map that stays in a core's cache from stage 1 to the writing of Y: its
// inputs, its finished outputs of a block of channels (up to 256) and, if there is one, its
// residual. Its positions are multiplied in tiles and panels of up to 12, so it needs several times
// as many, or the last tile of each band would be a small and slow one: hence 96 positions, and 24
// where a map is so small that some thread would otherwise have fewer than two bands.
//
// A job is one band of one block of one image. Of few jobs, the rest of the division by the number
// of threads costs time: 9 jobs take two threads as long as 10. So the number of rows of bands is
// moved to the nearest one that gives every thread the same number of jobs, taller bands or flatter
// ones. From 8 jobs per thread on, the rest is at most an eighth, and the bands stay as they are.
Bands choose_bands(const ConvPlan& plan, const PatchGrid& grid, int64_t threads) {
  Bands bands(grid, kBandPositions);
  const int64_t jobs_per_row = static_cast<int64_t>(plan.blocks.size()) * grid.batch * bands.across;
  if (threads == 1) return bands;
  if (jobs_per_row * bands.down < 2 * threads) bands = Bands(grid, kSmallBandPositions);
  if (jobs_per_row * bands.down >= kManyJobs * threads) return bands;
  for (int64_t off = 0; off < bands.down; ++off) {
    for (const int64_t down : {bands.down + off, bands.down - off}) {
      if (down <= bands.rows && jobs_per_row * down % threads == 0) {
        bands.down = down;
        return bands;
      }
    }
  }
  return bands;
}

}  // namespace spatialonnx

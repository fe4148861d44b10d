#include "spatial_conv/patches.h"

#include <algorithm>

namespace spatialonnx {

using std::int64_t;

BandPatches::BandPatches(const ConvRun& run, const ConvBlock& block, MapRows input, int64_t band)
    : run_(run), block_(block), input_(input) {
  const PatchGrid& grid = run.shape.grid;
  const Bands& bands = run.bands;
  const int64_t p = grid.patch_size;
  first_row = bands.first_row(band);
  first_column = band % bands.across * bands.patch_columns;
  rows = bands.row_count(band);
  columns = std::min(bands.patch_columns, grid.columns() - first_column);
  y = first_row * p;
  x = first_column * p;
  height = std::min(rows * p, grid.height - y);
  width = std::min(columns * p, grid.width - x);
  for (int64_t i = 0; i < p * p; ++i) {
    place_offsets_[i] = (i / p * width + i % p) * run.plan.stride;
  }
  for (int64_t i = 0; i < 4 && !block.mixed; ++i) {
    uniform_[i] = places(i / 2 * (rows - 1), i % 2 * (columns - 1), block.first);
  }
}

// The places of a patch that lie in the map.
unsigned BandPatches::inside(int64_t row, int64_t column) const {
  const int64_t p = run_.shape.grid.patch_size;
  const int64_t down = std::min(p, height - row * p);
  const unsigned in_row = (1u << std::min(p, width - column * p)) - 1;
  unsigned bits = 0;
  for (int64_t i = 0; i < down; ++i) bits |= in_row << (i * p);
  return bits;
}

Places BandPatches::places(int64_t row, int64_t column, int64_t channel) const {
  const unsigned pattern =
      run_.task.mask.at(run_.channel(channel), first_row + row, first_column + column);
  return {pattern, inside(row, column), run_.shape.grid.patch_size};
}

const Places& BandPatches::shared_places(int64_t row, int64_t column) {
  const MaskView& mask = run_.task.mask;
  if (mask.row_stride == 0 && mask.column_stride == 0) {
    return uniform_[(row == rows - 1 ? 2 : 0) + (column == columns - 1 ? 1 : 0)];
  }
  varying_ = places(row, column, block_.first);
  return varying_;
}

PatchStart BandPatches::start(int64_t row, int64_t column) const {
  const int64_t p = run_.shape.grid.patch_size;
  const PerAxis& stride = run_.attributes.stride;
  const int64_t input_row = (y + row * p) * stride[0] - input_.first;
  const int64_t input_column = (x + column * p) * stride[1];
  return {row, column,
          input_.data + (input_row * run_.map.width + input_column) * run_.map.inputs,
          (row * width + column) * p * run_.plan.stride};
}

}  // namespace spatialonnx

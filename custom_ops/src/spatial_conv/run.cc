#include "spatial_conv/run.h"

#include <algorithm>

namespace spatialonnx {
namespace {

using std::int64_t;

// Enough positions that stage 1 divides into whole tiles, few enough that they stay in cache.
constexpr int64_t kBandPositions = 96;
// Of a map too small to give every thread such bands.
constexpr int64_t kSmallBandPositions = 24;
constexpr int64_t kMostBandColumns = 128;
// Jobs a thread, from which on one more or less no longer matters.
constexpr int64_t kManyJobs = 8;

Bands choose_bands(const ConvPlan& plan, const PatchGrid& grid, int64_t threads) {
  Bands bands(grid, kBandPositions);
  const int64_t maps = static_cast<int64_t>(plan.blocks.size()) * grid.batch * bands.across;
  if (threads == 1) return bands;
  if (maps * bands.down < 2 * threads) bands = Bands(grid, kSmallBandPositions);
  // Few jobs should be as many for every thread: the nearest number of bands that makes them so.
  for (int64_t off = 0; off < bands.down && maps * bands.down < kManyJobs * threads; ++off) {
    for (const int64_t down : {bands.down + off, bands.down - off}) {
      if (down <= bands.rows && maps * down % threads == 0) {
        bands.down = down;
        return bands;
      }
    }
  }
  return bands;
}

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

ConvRun::ConvRun(const ConvTask& task, const ConvPlan& plan, const ConvKernels& kernels,
                 int64_t threads)
    : task(task),
      plan(plan),
      kernels(kernels),
      attributes(*task.attributes),
      shape(*task.shape),
      map(*task.attributes, *task.shape),
      bands(choose_bands(plan, task.shape->grid, threads)) {
  const int64_t p = shape.grid.patch_size;
  for (int64_t i = 0; i < p * p; ++i) {
    place_inputs[i] =
        (i / p * attributes.stride[0] * map.width + i % p * attributes.stride[1]) * map.inputs;
  }
}

Pair ConvRun::input_rows(int64_t band) const {
  const int64_t p = shape.grid.patch_size;
  const int64_t first = bands.first_row(band) * p;
  const int64_t last = std::min(first + bands.row_count(band) * p, shape.output[0]) - 1;
  return {first * attributes.stride[0],
          last * attributes.stride[0] + (attributes.kernel[0] - 1) * attributes.dilation[0] + 1};
}

bool ConvRun::by_band() const {
  return static_cast<int64_t>(plan.blocks.size()) == attributes.groups;
}

int64_t ConvRun::band_floats() const {
  if (!by_band()) return 0;
  const Pair rows = input_rows(0);  // no other band is larger
  return checked_product(rows[1] - rows[0], map.width * map.inputs) + kConvSlack;
}

Worker::Worker(Pieces& pieces, const ConvRun& run)
    : band_rows(run.map, pieces.take<float>(run.band_floats())) {
  const ConvPlan& plan = run.plan;
  const int64_t p = run.shape.grid.patch_size;
  const int64_t positions = run.bands.patches() * p * p;
  const int64_t staged = checked_product(positions, plan.stride) + kConvSlack;
  staging = pieces.take<float>(staged);
  residual = pieces.take<float>(run.task.residual != nullptr ? staged : 0);
  sums = pieces.take<float>(kMostPositions * (plan.stride + 16) + kConvSlack);
  probe_x = pieces.take<const float*>(positions);
  probe_out = pieces.take<float*>(positions);
  probe_residual = pieces.take<const float*>(positions);
  first_probe = pieces.take<std::int32_t>(run.bands.patches() + 1);
  bits = pieces.take<unsigned char>(plan.stride / 8);
  next_bits = pieces.take<unsigned char>(plan.stride / 8);
  common_bits = pieces.take<unsigned char>(plan.stride / 8);
  channels = pieces.take<std::int32_t>(plan.stride + 8);
  rows = pieces.take<const float*>(plan.stride);
  planes = pieces.take<float*>(plan.stride);
  residual_planes = pieces.take<const float*>(plan.stride);
  skipped = pieces.take<int64_t>(plan.stride);
  computed = pieces.take<int64_t>(plan.stride);
}

}  // namespace spatialonnx

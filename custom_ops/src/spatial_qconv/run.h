// A run of SpatialQConv: the padded map of X, and how the work is cut into jobs.
#pragma once

#include <cstdint>

#include "spatial_qconv/spatial_qconv.h"

namespace spatialonnx {

// What the kernels read of X: [image][group][height][width][inputs], padded with x_zero_point.
struct QConvMap {
  QConvMap(const ConvAttributes& attributes, const ConvShape& shape);

  // Writes row `row` (of height) of all groups of one image of X.
  void fill_row(const QConvTask& task, std::uint8_t flip, std::int64_t image, std::int64_t row,
                std::uint8_t* map) const;

  std::int64_t height;
  std::int64_t width;
  std::int64_t inputs;
  std::int64_t groups;
  std::int64_t group_bytes;
  std::int64_t image_bytes;
};

// How a map's rows of patches are cut into bands.
struct QConvBands {
  std::int64_t rows;  // of patches
  std::int64_t count;

  // Rows are spread evenly.
  std::int64_t first_row(std::int64_t band) const { return (band * rows + count - 1) / count; }
};

// What all jobs of a run share.
struct QConvRun {
  QConvRun(const QConvTask& task, const QConvPlan& plan, const QConvKernels& kernels);

  // Whether the kernels can read X itself.
  bool reads_x() const;

  const QConvTask& task;
  const QConvPlan& plan;
  const QConvKernels& kernels;
  const ConvAttributes& attributes;
  const ConvShape& shape;
  const QConvMap map;
  const std::uint8_t* x = nullptr;  // of the first image of those that are converted
  std::int64_t* skipped = nullptr;  // [N, C], or null
  QConvSpan span{};
};

}  // namespace spatialonnx

// A run of SpatialQConv: the padded map of X, and how the work is cut into jobs.
#pragma once

#include <cstdint>

#include "spatial_qconv/spatial_qconv.h"

namespace spatialonnx {

// What the kernels read of X, in bytes: for every image and group X padded with x_zero_point, channels
// last, or, unfolded, the inputs of every output.
struct QConvMap {
  QConvMap(const ConvAttributes& attributes, const ConvShape& shape, bool unfolded);

  // Whether a map is of the size of X and Y. Pads, dilations and kernels may make it any larger, and
  // the plain loop, which needs none, computes such nodes.
  static bool is_bounded(const ConvAttributes& attributes, const ConvShape& shape, bool unfolded);

  // Writes row `row` of all groups of one image of X, each byte ^ flip.
  void fill_row(const QConvTask& task, std::uint8_t flip, std::int64_t image, std::int64_t row,
                std::uint8_t* map) const;

  bool unfolded;
  std::int64_t height;
  std::int64_t width;
  std::int64_t inputs;  // bytes of a place of the map
  std::int64_t groups;
  std::int64_t row_step;  // from an output's inputs to those of the output below it
  std::int64_t column_step;  // and of the output beside it
  std::int64_t group_bytes;
  std::int64_t image_bytes;

 private:
  void fill_padded(const QConvTask& task, std::uint8_t flip, std::int64_t image, std::int64_t row,
                   std::int64_t group, std::uint8_t* to) const;
  void fill_unfolded(const QConvTask& task, std::uint8_t flip, std::int64_t image, std::int64_t row,
                     std::int64_t group, std::uint8_t* to) const;
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
  const std::int64_t scratch_bytes;  // that the kernels take for each thread
  std::uint8_t* scratch = nullptr;
  const std::uint8_t* x = nullptr;  // of the first image of those that are converted
  std::int64_t* skipped = nullptr;  // [N, C], or null
  QConvSpan span{};
};

}  // namespace spatialonnx

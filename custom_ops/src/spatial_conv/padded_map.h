// The zero-padded channels-last copy of X that SpatialConv's kernels read.
#pragma once

#include <cstdint>

#include "spatial_conv/conv_shape.h"
#include "spatial_conv/kernels.h"

namespace spatialonnx {

// Of one image: [group][height][width][inputs].
struct PaddedMap {
  PaddedMap(const ConvAttributes& attributes, const ConvShape& shape);

  // Whether a padded map is of the size of X and Y. Pads and dilations may make it any larger, and
  // the plain loop, which needs none, computes such nodes.
  static bool is_bounded(const ConvAttributes& attributes, const ConvShape& shape);

  std::int64_t height;
  std::int64_t width;
  std::int64_t inputs;
  std::int64_t groups;
  std::int64_t used_rows;  // of X: those that any output reads
  std::int64_t map_floats;
  std::int64_t image_floats;
};

// Rows of one group's padded map of one image, in memory that begins with row `first`.
struct MapRows {
  float* data;
  std::int64_t first;
};

// Fills rows [first, last), from the group's planes of X. Other threads wait for it without a bound,
// so it must not throw.
void convert_rows(const ConvKernels& kernels, const PaddedMap& map, const ConvShape& shape,
                  const float* const* planes, MapRows to, std::int64_t first,
                  std::int64_t last) noexcept;

// Whole maps, for several blocks of channels that read them one after another. Rows are converted
// when they are first asked for, by whichever thread asks.
class SharedMaps {
 public:
  // All is borrowed; `states`: state_count() bytes. begin() comes before the first request.
  SharedMaps(const PaddedMap& map, float* maps, unsigned char* states)
      : map_(map), maps_(maps), states_(states) {}

  static std::int64_t state_count(const PaddedMap& map, std::int64_t images);

  void begin(std::int64_t images);

  // The map of one group of one image, its rows [first, last) ready. `planes` are the group's.
  // Workers that ask for the same rows each convert some strips of them. A worker waits only for
  // strips that another one is converting, and no worker waits while it converts, so waiting ends.
  MapRows rows(const ConvKernels& kernels, const ConvShape& shape, const float* const* planes,
               std::int64_t image, std::int64_t group, std::int64_t first, std::int64_t last,
               std::size_t worker) const noexcept;

 private:
  const PaddedMap& map_;
  float* maps_;
  unsigned char* states_;
};

// The rows that one band reads, in the memory of one thread: they stay in its cache.
class BandRows {
 public:
  BandRows(const PaddedMap& map, float* memory) : map_(map), memory_(memory) {}

  // As SharedMaps. `map_number` tells maps apart; the rows that the last request had are kept.
  MapRows rows(const ConvKernels& kernels, const ConvShape& shape, const float* const* planes,
               std::int64_t map_number, std::int64_t first, std::int64_t last);

 private:
  const PaddedMap& map_;
  float* memory_;
  std::int64_t map_number_ = -1;
  std::int64_t first_ = 0;
  std::int64_t last_ = 0;
};

}  // namespace spatialonnx

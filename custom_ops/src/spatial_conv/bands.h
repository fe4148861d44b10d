// How a map is cut into bands: rectangles of whole patches, each of which is worked on at once.
#pragma once

#include <cstdint>

#include "spatial_conv/plan.h"

namespace spatialonnx {

//      patch_columns = 4
//     +---+---+---+---+---+---+---+
//     |               |           |  first_row(0) = 0, row_count(0) = 3
//     |    band 0     |  band 1   |
//     |               |           |
//     +---+---+---+---+---+---+---+
//     |    band 2     |  band 3   |  first_row(2) = 3, row_count(2) = 2
//     |               |           |
//     +---+---+---+---+---+---+---+
//     |    band 4     |  band 5   |
//     |               |           |
//     +---+---+---+---+---+---+---+
//      rows = 7 rows of patches are spread over down = 3 rows of bands; across = 2
struct Bands {
  // Of at least so many positions each, where the map has them.
  Bands(const PatchGrid& grid, std::int64_t least_positions);

  std::int64_t rows;           // of patches, in the map
  std::int64_t patch_columns;  // of a band; the last ones of a map may have fewer
  std::int64_t down;           // rows of bands
  std::int64_t across;         // bands beside each other

  std::int64_t count() const { return down * across; }
  // Rows of patches are spread evenly; the first band has no fewer than any other.
  std::int64_t first_row(std::int64_t band) const { return begin(band / across); }
  std::int64_t row_count(std::int64_t band) const {
    return begin(band / across + 1) - begin(band / across);
  }
  // The most of any band.
  std::int64_t patches() const { return begin(1) * patch_columns; }

 private:
  std::int64_t begin(std::int64_t row) const { return (row * rows + down - 1) / down; }
};

// The bands of a run that `threads` threads share.
Bands choose_bands(const ConvPlan& plan, const PatchGrid& grid, std::int64_t threads);

}  // namespace spatialonnx

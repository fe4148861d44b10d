// The patches of a band, as one block of channels sees them: which places are probes, and where
// their inputs and outputs lie.
#pragma once

#include <cstdint>

#include "spatial_conv/run.h"

namespace spatialonnx {

// The places of a patch inside the map: probes and others. A place is a bit of a pattern. The places
// of a blind patch are all probes: it is computed in full.
struct Places {
  Places() = default;
  Places(unsigned pattern, unsigned inside, std::int64_t patch_size) {
    const unsigned seen = (pattern & inside) != 0 ? pattern & inside : inside;
    for (int i = 0; i < patch_size * patch_size; ++i) {
      if (seen >> i & 1) {
        probe[probes++] = i;
      } else if (inside >> i & 1) {
        other[others++] = i;
      }
    }
  }

  int probes = 0;
  int others = 0;
  int probe[kMostPositions];
  int other[kMostPositions];
};

// Where a patch of the band begins.
struct PatchStart {
  std::int64_t row;  // of patches, in the band
  std::int64_t column;
  const float* x;         // the inputs of its first place
  std::int64_t position;  // the offset of that place in the staging buffer
};

class BandPatches {
 public:
  // `input`: the rows of the padded map that the band reads.
  BandPatches(const ConvRun& run, const ConvBlock& block, MapRows input, std::int64_t band);

  // The places of a patch, for one channel of the plan's order.
  Places places(std::int64_t row, std::int64_t column, std::int64_t channel) const;
  // The same, where all channels of the block share a pattern. Valid until the next call.
  const Places& shared_places(std::int64_t row, std::int64_t column);

  PatchStart start(std::int64_t row, std::int64_t column) const;
  // From a patch's first place to another one, in the staging buffer.
  std::int64_t place_offset(int place) const { return place_offsets_[place]; }

  // In patches: the band's first one in the map, and its size.
  std::int64_t first_row;
  std::int64_t first_column;
  std::int64_t rows;
  std::int64_t columns;
  // In positions: the same.
  std::int64_t y;
  std::int64_t x;
  std::int64_t height;
  std::int64_t width;

 private:
  unsigned inside(std::int64_t row, std::int64_t column) const;

  const ConvRun& run_;
  const ConvBlock& block_;
  const MapRows input_;
  std::int64_t place_offsets_[kMostPositions];
  // Of a mask that is the same everywhere: of whole patches, and of those cut by a border.
  Places uniform_[4];
  Places varying_;
};

}  // namespace spatialonnx

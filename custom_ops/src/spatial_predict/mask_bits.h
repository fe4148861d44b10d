// A mask as bits, one bit per position of the map, in the order of memory: what the vector kernel
// needs to apply the rule to 64 positions at once.
//
// A map of one channel is cut into bands of whole rows of patches. A band's positions lie one
// after the other, and so do its bits, so narrow maps do not leave words or vectors half empty.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/mask_view.h"
#include "core/patch_grid.h"

namespace spatialonnx {

// Positions of a band: about so many, so that it stays in the first-level cache between being
// read and being written; and never more than the second, which the kernel's buffers hold.
inline constexpr std::int64_t kBandTarget = 1024;
inline constexpr std::int64_t kBandLimit = 4096;

struct BandGrid {
  std::int64_t patch_rows;  // rows of patches of a band; the last band may have fewer
  std::int64_t positions;   // patch_rows * p * W
  std::int64_t words;       // ceil(positions / 64)
  std::int64_t count;       // bands of one channel
};

// Whether a row of patches fits into a band.
bool fits_band(const PatchGrid& grid);

BandGrid make_bands(const PatchGrid& grid);

// Where the bits lie: all arrays are [words] for one band.
struct MaskBits {
  BandGrid bands;
  // Of the grid alone, the same for every band. columns: [p][words]; columns[c] has the positions
  // in the first column of a patch whose patch has a column c inside the map.
  const std::uint64_t* columns;
  const std::uint64_t* corners;  // the first position of every patch
  // Of the patterns: [stored channels][bands][2][words], the probes, and what is kept whatever the
  // probes say (the probes themselves and the blind patches).
  const std::uint64_t* patterns;
  const std::uint8_t* active;      // [stored channels]: whether any position may be predicted
  std::int64_t stored_channels;    // 1 where all channels share their patterns

  std::int64_t channel_words() const { return bands.count * 2 * bands.words; }
};

// Writes columns and corners: (p + 1) * words in all.
void fill_grid_bits(const PatchGrid& grid, const BandGrid& bands, std::uint64_t* bits);

// Writes the patterns of one stored channel, bands * 2 * words. Returns whether any position of
// it may be predicted.
bool fill_pattern_bits(const MaskView& mask, const PatchGrid& grid, const BandGrid& bands,
                       std::int64_t channel, std::uint64_t* bits);

}  // namespace spatialonnx

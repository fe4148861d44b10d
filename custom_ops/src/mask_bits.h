// A mask as bits: for every row of patches, which columns are probes and which patches are blind.
// The vector kernel works on up to 64 columns of a row at once, one bit a column.
#pragma once

#include <cstddef>
#include <cstdint>

#include "patch_grid.h"

namespace spatialonnx {

// Columns that one word holds: whole patches and whole vectors.
constexpr std::int64_t columns_per_word(std::int64_t patch_size) {
  return patch_size == 3 ? 48 : 64;
}

// Where the bits of a mask lie. A row of patches is `words` groups of p + 1 words: the probes of
// its p rows of the map (those inside the map), then the columns of its blind patches. Rows which
// share their patterns are stored twice: as an inner row, and as the last one, which the border
// may cut.
struct MaskBits {
  const std::uint64_t* bits;
  const std::uint8_t* active;  // per stored row: whether any position of it may be predicted
  std::int64_t patch_size;
  std::int64_t words;
  std::int64_t channels;  // stored: 1 or C
  std::int64_t rows;      // stored per channel: 2 or nH
  bool shared_rows;

  std::int64_t row_words() const { return words * (patch_size + 1); }
};

// Sizes first (bits and active null), so that the caller can allocate channels * rows * row_words()
// words and channels * rows bytes.
MaskBits plan_mask_bits(const MaskView& mask, const PatchGrid& grid);

// Writes the bits of one stored channel.
void fill_mask_bits(const MaskView& mask, const PatchGrid& grid, const MaskBits& plan,
                    std::int64_t channel, std::uint64_t* bits, std::uint8_t* active);

}  // namespace spatialonnx

#include "mask_bits.h"

#include <algorithm>

namespace spatialonnx {
namespace {

// The bits of one row of patches. Returns whether any position of it may be predicted.
bool fill_row(const MaskView& mask, const PatchGrid& grid, std::int64_t channel, std::int64_t row,
              std::uint64_t* bits) {
  const std::int64_t p = grid.patch_size;
  const std::int64_t per_word = columns_per_word(p);
  const std::int64_t map_rows = std::min(p, grid.height - row * p);
  const std::uint64_t patch_columns = (std::uint64_t{1} << p) - 1;
  bool active = false;
  for (std::int64_t first = 0; first < grid.width; first += per_word, bits += p + 1) {
    std::fill_n(bits, p + 1, 0);
    const std::int64_t end = std::min(first + per_word, grid.width);
    for (std::int64_t column = first; column < end; column += p) {
      const std::uint64_t inside = patch_columns >> (p - std::min(p, end - column));
      const unsigned pattern = mask.at(channel, row, column / p);
      const std::int64_t shift = column - first;
      std::uint64_t probes = 0;
      std::uint64_t predictable = 0;
      for (std::int64_t r = 0; r < map_rows; ++r) {
        const std::uint64_t in_row = (pattern >> (r * p)) & inside;
        bits[r] |= in_row << shift;
        probes |= in_row;
        predictable |= inside & ~in_row;
      }
      if (probes == 0) {
        bits[p] |= inside << shift;
      } else {
        active |= predictable != 0;
      }
    }
  }
  return active;
}

}  // namespace

MaskBits plan_mask_bits(const MaskView& mask, const PatchGrid& grid) {
  const std::int64_t per_word = columns_per_word(grid.patch_size);
  const bool shared_rows = mask.row_stride == 0 && mask.column_stride == 0;
  return {
      .bits = nullptr,
      .active = nullptr,
      .patch_size = grid.patch_size,
      .words = (grid.width + per_word - 1) / per_word,
      .channels = mask.channel_stride == 0 ? 1 : grid.channels,
      .rows = shared_rows ? 2 : grid.rows(),
      .shared_rows = shared_rows,
  };
}

void fill_mask_bits(const MaskView& mask, const PatchGrid& grid, const MaskBits& plan,
                    std::int64_t channel, std::uint64_t* bits, std::uint8_t* active) {
  bits += channel * plan.rows * plan.row_words();
  active += channel * plan.rows;
  for (std::int64_t stored = 0; stored < plan.rows; ++stored) {
    const std::int64_t last = grid.rows() - 1;
    const std::int64_t row = plan.shared_rows && stored == 1 ? last : stored;
    active[stored] = fill_row(mask, grid, channel, row, bits + stored * plan.row_words());
  }
}

}  // namespace spatialonnx

#include "spatial_predict/mask_bits.h"

#include <algorithm>

namespace spatialonnx {
namespace {

// Columns of a row whose bits are made at once: whole patches of every size.
constexpr std::int64_t kColumns = 48;

// Sets up to 64 bits of a bit array that are still 0.
void put_bits(std::uint64_t* words, std::int64_t at, std::uint64_t bits) {
  const int shift = static_cast<int>(at % 64);
  words[at / 64] |= bits << shift;
  const std::uint64_t carried = bits >> 1 >> (63 - shift);
  if (carried != 0) words[at / 64 + 1] |= carried;
}

// A patch's positions that are inside the map: bit r * p + c.
unsigned positions_inside(std::int64_t p, std::int64_t rows, std::int64_t columns) {
  unsigned inside = 0;
  for (std::int64_t r = 0; r < rows; ++r) inside |= ((1u << columns) - 1) << (r * p);
  return inside;
}

// Writes the bits of one row of patches, whose first position is bit `at`.
template <int p>
bool fill_patch_row(const MaskView& mask, const PatchGrid& grid, std::int64_t channel,
                    std::int64_t row, std::int64_t at, std::uint64_t* probes,
                    std::uint64_t* kept) {
  constexpr unsigned patch_columns = (1u << p) - 1;
  const std::int64_t rows = std::min<std::int64_t>(p, grid.height - row * p);
  const unsigned whole = positions_inside(p, rows, p);
  bool active = false;
  for (std::int64_t first = 0; first < grid.width; first += kColumns) {
    const std::int64_t end = std::min(first + kColumns, grid.width);
    std::uint64_t probe_bits[p] = {};
    std::uint64_t kept_bits[p] = {};
    const auto add = [&](std::int64_t column, unsigned inside) {
      const unsigned seen = mask.at(channel, row, column / p) & inside;
      const unsigned keep = seen == 0 ? inside : seen;  // no probe inside the map: blind
      for (int r = 0; r < p; ++r) {
        const auto shift = column - first;
        probe_bits[r] |= std::uint64_t{seen >> (r * p) & patch_columns} << shift;
        kept_bits[r] |= std::uint64_t{keep >> (r * p) & patch_columns} << shift;
      }
      active |= keep != inside;
    };
    std::int64_t column = first;
    for (; column + p <= end; column += p) add(column, whole);
    if (column < end) add(column, positions_inside(p, rows, end - column));
    for (std::int64_t r = 0; r < rows; ++r) {
      put_bits(probes, at + r * grid.width + first, probe_bits[r]);
      put_bits(kept, at + r * grid.width + first, kept_bits[r]);
    }
  }
  return active;
}

template <int p>
bool fill_channel(const MaskView& mask, const PatchGrid& grid, const BandGrid& bands,
                  std::int64_t channel, std::uint64_t* bits) {
  std::fill_n(bits, bands.count * 2 * bands.words, 0);
  bool active = false;
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    std::uint64_t* band = bits + row / bands.patch_rows * 2 * bands.words;
    active |= fill_patch_row<p>(mask, grid, channel, row, row % bands.patch_rows * p * grid.width,
                                band, band + bands.words);
  }
  return active;
}

}  // namespace

bool fits_band(const PatchGrid& grid) { return grid.patch_size * grid.width <= kBandLimit; }

BandGrid make_bands(const PatchGrid& grid) {
  const std::int64_t row = grid.patch_size * grid.width;
  BandGrid bands{};
  bands.patch_rows = std::clamp<std::int64_t>(kBandTarget / row, 1, grid.rows());
  bands.positions = bands.patch_rows * row;
  bands.words = (bands.positions + 63) / 64;
  bands.count = (grid.rows() + bands.patch_rows - 1) / bands.patch_rows;
  return bands;
}

void fill_grid_bits(const PatchGrid& grid, const BandGrid& bands, std::uint64_t* bits) {
  const std::int64_t p = grid.patch_size;
  std::fill_n(bits, (p + 1) * bands.words, 0);
  for (std::int64_t position = 0; position < bands.positions; ++position) {
    const std::int64_t column = position % grid.width;
    if (column % p != 0) continue;
    const std::uint64_t bit = std::uint64_t{1} << (position % 64);
    for (std::int64_t c = 0; c < std::min(p, grid.width - column); ++c) {
      bits[c * bands.words + position / 64] |= bit;
    }
    if (position / grid.width % p == 0) bits[p * bands.words + position / 64] |= bit;
  }
}

bool fill_pattern_bits(const MaskView& mask, const PatchGrid& grid, const BandGrid& bands,
                       std::int64_t channel, std::uint64_t* bits) {
  switch (grid.patch_size) {
    case 2: return fill_channel<2>(mask, grid, bands, channel, bits);
    case 3: return fill_channel<3>(mask, grid, bands, channel, bits);
    default: return fill_channel<4>(mask, grid, bands, channel, bits);
  }
}

}  // namespace spatialonnx

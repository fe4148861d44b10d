// SpatialPredict on bits: a row of patches is read once to find which columns are not zero; the
// rule is a few operations on words; then it is copied with the predicted columns cleared.
// Compiled once per instruction set (isa.h).
#include <string.h>

#include "column_bits.h"
#include "spatial_predict.h"

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

struct Counts {
  std::int64_t skipped = 0;
  std::int64_t false_zero = 0;
};

// One word of columns of one row of patches; `rows` of the map (fewer than p at the border).
template <int p, bool count>
inline void predict_word(const float* x, float* y, std::int64_t width, int rows, int columns,
                         const std::uint64_t* mask, Counts& counts) {
  std::uint64_t nonzero[p] = {};
  std::uint64_t fired = 0;
  for (int r = 0; r < rows; ++r) {
    nonzero[r] = nonzero_bits(x + r * width, columns);
    fired |= nonzero[r] & mask[r];
  }
  const std::uint64_t computed = spread_over_patches<p>(fired) | mask[p];  // fired, or blind
  for (int r = 0; r < rows; ++r) {
    const std::uint64_t keep = computed | mask[r];
    copy_kept(x + r * width, y + r * width, columns, keep);
    if constexpr (count) {
      const std::uint64_t predicted = ~keep & first_bits(columns);
      counts.skipped += __builtin_popcountll(predicted);
      counts.false_zero += __builtin_popcountll(predicted & nonzero[r]);
    }
  }
}

template <int p, bool count>
void predict_plane(const PredictTask& task, std::size_t plane) {
  const PatchGrid& grid = task.grid;
  const MaskBits& bits = task.bits;
  constexpr std::int64_t per_word = columns_per_word(p);
  const auto channel = static_cast<std::int64_t>(plane % static_cast<std::size_t>(grid.channels));
  const std::int64_t stored_channel = bits.channels == 1 ? 0 : channel;
  const std::int64_t offset = static_cast<std::int64_t>(plane) * grid.height * grid.width;
  const float* x = task.x + offset;
  float* y = task.y + offset;
  const std::int64_t patch_rows = (grid.height + p - 1) / p;
  Counts counts;
  for (std::int64_t row = 0; row < patch_rows; ++row) {
    const std::int64_t in_channel = bits.shared_rows ? (row == patch_rows - 1 ? 1 : 0) : row;
    const std::int64_t stored = stored_channel * bits.rows + in_channel;
    const std::int64_t left = grid.height - row * p;
    const int rows = left < p ? static_cast<int>(left) : p;
    const std::int64_t start = row * p * grid.width;
    if (bits.active[stored] == 0) {
      if (x != y) {
        memcpy(y + start, x + start, static_cast<std::size_t>(rows * grid.width) * sizeof(float));
      }
      continue;
    }
    const std::uint64_t* mask = bits.bits + stored * bits.words * (p + 1);
    for (std::int64_t column = 0; column < grid.width; column += per_word, mask += p + 1) {
      const std::int64_t rest = grid.width - column;
      const int columns = static_cast<int>(rest < per_word ? rest : per_word);
      predict_word<p, count>(x + start + column, y + start + column, grid.width, rows, columns,
                             mask, counts);
    }
  }
  if (task.skipped != nullptr) task.skipped[plane] = counts.skipped;
  if (task.false_zero != nullptr) task.false_zero[plane] = counts.false_zero;
}

template <int p>
void predict_planes_of(const PredictTask& task, std::size_t first, std::size_t last) {
  const bool count = task.skipped != nullptr || task.false_zero != nullptr;
  for (std::size_t plane = first; plane < last; ++plane) {
    count ? predict_plane<p, true>(task, plane) : predict_plane<p, false>(task, plane);
  }
}

}  // namespace

void predict_planes(const PredictTask& task, std::size_t first, std::size_t last) {
  switch (task.grid.patch_size) {
    case 2: return predict_planes_of<2>(task, first, last);
    case 3: return predict_planes_of<3>(task, first, last);
    case 4: return predict_planes_of<4>(task, first, last);
  }
}

}  // namespace spatialonnx::SPATIALONNX_ISA

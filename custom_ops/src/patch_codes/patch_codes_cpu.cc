// PatchCodes on bits: the zeros of a row of patches as words, cut into patches.
// Compiled once per instruction set (isa.h).
#include "core/position_bits.h"
#include "patch_codes/patch_codes.h"

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

// `fires(x, count)` gives the positions that are not zero as bits.
template <int p, class T, class Fires>
void code_plane(const PatchGrid& grid, const T* x, std::uint16_t* codes, Fires fires) {
  constexpr std::int64_t per_word = p == 3 ? 48 : 64;  // whole patches, whole vectors
  constexpr unsigned patch_columns = (1u << p) - 1;
  for (std::int64_t top = 0; top < grid.height; top += p, x += p * grid.width) {
    const std::int64_t left = grid.height - top;
    const int rows = left < p ? static_cast<int>(left) : p;
    for (std::int64_t column = 0; column < grid.width; column += per_word) {
      const std::int64_t rest = grid.width - column;
      const int columns = static_cast<int>(rest < per_word ? rest : per_word);
      std::uint64_t zeros[p] = {};
      for (int r = 0; r < rows; ++r) {
        zeros[r] = ~fires(x + r * grid.width + column, columns) & first_bits(columns);
      }
      for (int shift = 0; shift < columns; shift += p) {
        unsigned code = 0;
        for (int r = 0; r < p; ++r) {
          code |= (static_cast<unsigned>(zeros[r] >> shift) & patch_columns) << (r * p);
        }
        *codes++ = static_cast<std::uint16_t>(code);
      }
    }
  }
}

template <int p, class T>
void code_planes_of(const CodesTask<T>& task, std::size_t first, std::size_t last) {
  const PatchGrid& grid = task.grid;
  const std::int64_t patches = ((grid.height + p - 1) / p) * ((grid.width + p - 1) / p);
  for (std::size_t plane = first; plane < last; ++plane) {
    const auto i = static_cast<std::int64_t>(plane);
    const T* x = task.x + i * grid.height * grid.width;
    std::uint16_t* codes = task.codes + i * patches;
    if (task.limits == nullptr) {
      const T zero = task.zero;
      code_plane<p>(grid, x, codes, [=](const T* at, int n) { return different_bits(at, n, zero); });
    } else {
      const T limit = task.limits[i % grid.channels * task.limit_stride];
      code_plane<p>(grid, x, codes, [=](const T* at, int n) { return above_bits(at, n, limit); });
    }
  }
}

template <class T>
void code(const CodesTask<T>& task, std::size_t first, std::size_t last) {
  switch (task.grid.patch_size) {
    case 2: return code_planes_of<2>(task, first, last);
    case 3: return code_planes_of<3>(task, first, last);
    case 4: return code_planes_of<4>(task, first, last);
  }
}

}  // namespace

void code_planes(const CodesTask<float>& task, std::size_t first, std::size_t last) {
  code(task, first, last);
}

void code_planes(const CodesTask<std::uint8_t>& task, std::size_t first, std::size_t last) {
  code(task, first, last);
}

void code_planes(const CodesTask<std::int8_t>& task, std::size_t first, std::size_t last) {
  code(task, first, last);
}

}  // namespace spatialonnx::SPATIALONNX_ISA

// PatchCodes, position by position.
#include "patch_codes/patch_codes.h"

namespace spatialonnx::reference {

void code_planes(const CodesTask& task, std::size_t first, std::size_t last) {
  const PatchGrid& grid = task.grid;
  const std::int64_t p = grid.patch_size;
  const std::int64_t patches = grid.rows() * grid.columns();
  for (std::size_t plane = first; plane < last; ++plane) {
    const float* x = task.x + static_cast<std::int64_t>(plane) * grid.map_size();
    std::uint16_t* codes = task.codes + static_cast<std::int64_t>(plane) * patches;
    for (std::int64_t i = 0; i < patches; ++i) codes[i] = 0;
    for (std::int64_t h = 0; h < grid.height; ++h) {
      for (std::int64_t w = 0; w < grid.width; ++w) {
        if (!(x[h * grid.width + w] == 0.0f)) continue;
        const std::int64_t bit = h % p * p + w % p;
        std::uint16_t& code = codes[h / p * grid.columns() + w / p];
        code = static_cast<std::uint16_t>(code | 1u << bit);
      }
    }
  }
}

}  // namespace spatialonnx::reference

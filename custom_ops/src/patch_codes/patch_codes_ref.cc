// PatchCodes, position by position.
#include "patch_codes/patch_codes.h"

namespace spatialonnx::reference {
namespace {

template <class T>
void code(const CodesTask<T>& task, std::size_t first, std::size_t last) {
  const PatchGrid& grid = task.grid;
  const std::int64_t p = grid.patch_size;
  const std::int64_t patches = grid.rows() * grid.columns();
  for (std::size_t plane = first; plane < last; ++plane) {
    const T* limit = task.limits;
    if (limit != nullptr) {
      limit += static_cast<std::int64_t>(plane) % grid.channels * task.limit_stride;
    }
    const T* x = task.x + static_cast<std::int64_t>(plane) * grid.map_size();
    std::uint16_t* codes = task.codes + static_cast<std::int64_t>(plane) * patches;
    for (std::int64_t i = 0; i < patches; ++i) codes[i] = 0;
    for (std::int64_t h = 0; h < grid.height; ++h) {
      for (std::int64_t w = 0; w < grid.width; ++w) {
        const T value = x[h * grid.width + w];
        const bool zero = limit == nullptr ? value == task.zero : value <= *limit;
        if (!zero) continue;  // NaN is neither
        const std::int64_t bit = h % p * p + w % p;
        std::uint16_t& code = codes[h / p * grid.columns() + w / p];
        code = static_cast<std::uint16_t>(code | 1u << bit);
      }
    }
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

}  // namespace spatialonnx::reference

#include "core/patch_grid.h"

#include <algorithm>

namespace spatialonnx {

std::size_t planes_per_task(const PatchGrid& grid) {
  constexpr std::int64_t kTaskElements = 1 << 15;
  return static_cast<std::size_t>(
      std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, grid.map_size())));
}

}  // namespace spatialonnx

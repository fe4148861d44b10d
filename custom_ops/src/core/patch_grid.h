// Patches: the p x p tiles of one channel of a map.
#pragma once

#include <cstddef>
#include <cstdint>

namespace spatialonnx {

inline constexpr std::int64_t kMinPatchSize = 2;
inline constexpr std::int64_t kMaxPatchSize = 4;

constexpr std::int64_t full_pattern(std::int64_t patch_size) {
  return (std::int64_t{1} << (patch_size * patch_size)) - 1;
}

// A map [N, C, H, W] and its patches; the last row and column of patches may be cut by the border.
struct PatchGrid {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  std::int64_t patch_size;

  std::int64_t rows() const { return (height + patch_size - 1) / patch_size; }
  std::int64_t columns() const { return (width + patch_size - 1) / patch_size; }
  std::int64_t map_size() const { return height * width; }
};

// How many planes (maps of one channel of one sample) a task takes, so that a task is worth the
// price of handing it to a thread.
std::size_t planes_per_task(const PatchGrid& grid);

}  // namespace spatialonnx

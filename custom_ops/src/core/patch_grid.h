// Patches: the p x p tiles of one channel of a map, and what the ops check about them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/mask_view.h"
#include "ort/ort.h"

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

// Throws OpError unless x is [N, C, H, W] and the patch size one that is supported.
PatchGrid check_map(const Tensor& x, std::int64_t patch_size);

// The value of input `patch_size`, an int64 scalar. Throws OpError.
std::int64_t check_patch_size(const Tensor& input);

// Throws OpError unless the mask is broadcastable to [C, nH, nW] in one of the four shapes and all
// its patterns are within 1 .. full.
MaskView check_mask(const Tensor& mask, const PatchGrid& grid);

// How many planes (maps of one channel of one sample) a task takes, so that a task is worth the
// price of handing it to a thread.
std::size_t planes_per_task(const PatchGrid& grid);

}  // namespace spatialonnx

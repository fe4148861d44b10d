#include "ort/patch_inputs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spatialonnx {

PatchGrid check_map(const Tensor& x, std::int64_t patch_size) {
  x.expect_rank(4, "[N, C, H, W]");
  if (patch_size < kMinPatchSize || patch_size > kMaxPatchSize) {
    throw OpError("patch size is " + std::to_string(patch_size) + ", but takes 2, 3 or 4");
  }
  // Only a tensor without elements can be larger; then products of two dimensions would overflow.
  if (std::ranges::max(x.shape()) > std::numeric_limits<std::int32_t>::max()) {
    throw OpError("input X has shape " + shape_text(x.shape()) +
                  ", but takes dimensions below 2147483648");
  }
  return {x.dim(0), x.dim(1), x.dim(2), x.dim(3), patch_size};
}

std::int64_t check_patch_size(const Tensor& input) {
  input.expect_rank(0, "a scalar, shape []");
  return *input.data<std::int64_t>();
}

MaskView view_mask(const Tensor& mask, const PatchGrid& grid) {
  const std::int64_t rows = grid.rows();
  const std::int64_t columns = grid.columns();
  const auto takes = [&] {
    const std::string c = std::to_string(grid.channels);
    const std::string patches = std::to_string(rows) + ", " + std::to_string(columns) + "]";
    return "[1, 1, 1], [" + c + ", 1, 1], [1, " + patches + " or [" + c + ", " + patches;
  };
  mask.expect_rank(3, "three dimensions, [C or 1, rows or 1, columns or 1]");
  const bool one_channel = mask.dim(0) == 1;
  const bool one_patch = mask.dim(1) == 1 && mask.dim(2) == 1;
  const bool all_patches = mask.dim(1) == rows && mask.dim(2) == columns;
  if ((!one_channel && mask.dim(0) != grid.channels) || (!one_patch && !all_patches)) {
    throw OpError("input mask has shape " + shape_text(mask.shape()) + ", but takes " + takes());
  }
  return {mask.data<std::uint16_t>(), one_channel ? 0 : mask.dim(1) * mask.dim(2), one_patch ? 0 : mask.dim(2),
          one_patch ? 0 : 1};
}

void check_patterns(const Tensor& mask, std::int64_t patch_size) {
  const auto* patterns = mask.data<std::uint16_t>();
  const std::int64_t count = mask.count();
  // Both ends in one branch-free pass: pattern 0 wraps to the largest uint16.
  std::uint16_t worst = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    worst = std::max(worst, static_cast<std::uint16_t>(patterns[i] - 1));
  }
  const std::int64_t full = full_pattern(patch_size);
  if (count > 0 && worst >= full) {
    const int pattern = static_cast<std::uint16_t>(worst + 1);
    throw OpError("input mask holds pattern " + std::to_string(pattern) + ", but patch size " +
                  std::to_string(patch_size) + " takes 1 to " + std::to_string(full));
  }
}

MaskView check_mask(const Tensor& mask, const PatchGrid& grid) {
  const MaskView view = view_mask(mask, grid);
  check_patterns(mask, grid.patch_size);
  return view;
}

std::int64_t check_threshold_shape(const Tensor& threshold, std::int64_t channels,
                                   const char* name) {
  threshold.expect_rank(1, "[1] or [C]");
  if (threshold.dim(0) != 1 && threshold.dim(0) != channels) {
    throw OpError(std::string("input ") + name + " has shape " + shape_text(threshold.shape()) +
                  ", but takes [1] or [" + std::to_string(channels) + "]");
  }
  return threshold.dim(0) == 1 ? 0 : 1;
}

ThresholdView check_threshold(const std::optional<Tensor>& threshold, std::int64_t channels,
                              const char* name) {
  if (!threshold) return {};
  const std::int64_t stride = check_threshold_shape(*threshold, channels, name);
  const auto* values = threshold->data<float>();
  for (std::int64_t i = 0; i < threshold->count(); ++i) {
    if (!(values[i] >= 0) || !std::isfinite(values[i])) {
      throw OpError(std::string("input ") + name + " holds " + std::to_string(values[i]) +
                    ", but takes finite values of 0 or more");
    }
  }
  return {values, stride};
}

}  // namespace spatialonnx

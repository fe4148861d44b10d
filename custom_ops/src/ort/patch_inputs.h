// What the ops check about the inputs that maps and patches come from.
#pragma once

#include <cstdint>
#include <optional>

#include "core/mask_view.h"
#include "core/patch_grid.h"
#include "core/threshold_view.h"
#include "ort/ort.h"

namespace spatialonnx {

// Throws OpError unless x is [N, C, H, W] and the patch size one that is supported.
PatchGrid check_map(const Tensor& x, std::int64_t patch_size);

// The value of input `patch_size`, an int64 scalar. Throws OpError.
std::int64_t check_patch_size(const Tensor& input);

// The mask as kernels see it. Throws OpError unless it is broadcastable to [C, nH, nW] in one of the
// four shapes. Its patterns are not read: they may be known to be right.
MaskView view_mask(const Tensor& mask, const PatchGrid& grid);

// Throws OpError unless all patterns are within 1 .. full.
void check_patterns(const Tensor& mask, std::int64_t patch_size);

// Both.
MaskView check_mask(const Tensor& mask, const PatchGrid& grid);

// Throws OpError unless thresholds are [1] or [channels]; returns their stride, 0 or 1.
std::int64_t check_threshold_shape(const Tensor& threshold, std::int64_t channels,
                                   const char* name = "threshold");

// Float thresholds as kernels see them; none where there is no tensor. Throws OpError unless they
// have that shape, are finite and 0 or more.
ThresholdView check_threshold(const std::optional<Tensor>& threshold, std::int64_t channels,
                              const char* name = "threshold");

}  // namespace spatialonnx

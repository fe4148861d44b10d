// The memory that one thread works with.
#pragma once

#include <cstdint>

#include "core/scratch_layout.h"
#include "spatial_conv/prefetch.h"
#include "spatial_conv/run.h"

namespace spatialonnx {

struct Worker {
  Worker(ScratchLayout& layout, const ConvRun& run);

  WeightPrefetch prefetch;
  const ConvBlock* last_block = nullptr;
  BandRows band_rows;

  // Outputs of a band: [position of the band][channel of the block].
  float* staging;   // finished ones
  float* residual;  // what is added to them; staging, never read, where nothing is
  float** planes;   // of Y, per channel of the block
  const float** residual_planes;

  // Stage 1: per probe of the band its inputs, its place in staging and in residual.
  const float** probe_x;
  float** probe_out;
  const float** probe_residual;
  std::int32_t* first_probe;  // per patch of the band, and behind the last

  // Stage 2.
  float* sums;                // [position of a patch][channel]
  unsigned char* bits;        // per octet of the block: what fired
  unsigned char* next_bits;   // the same of the next patch
  unsigned char* common_bits;
  std::int32_t* channels;     // of the block, that fired
  const float** filters;      // their weights

  // Counts per channel of the block.
  std::int64_t* skipped;
  std::int64_t* computed;
};

// From the sums of one position to those of the next. The stride of outputs is often a power of two;
// 16 floats more keep neighbouring positions out of the same sets of the first-level cache.
inline std::int64_t sums_stride(const ConvPlan& plan) { return plan.stride + 16; }

}  // namespace spatialonnx

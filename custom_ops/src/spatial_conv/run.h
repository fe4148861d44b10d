// What all jobs of one run of SpatialConv share.
#pragma once

#include <cstdint>

#include "core/scratch_layout.h"
#include "spatial_conv/bands.h"
#include "spatial_conv/padded_map.h"
#include "spatial_conv/spatial_conv.h"

namespace spatialonnx {

struct ConvRun {
  ConvRun(const ConvTask& task, const ConvPlan& plan, const ConvKernels& kernels,
          std::int64_t threads);

  // The rows of the padded map that a band's outputs read: first, and behind the last.
  PerAxis input_rows(std::int64_t band) const;
  // The most that any band reads, in floats; 0 where whole maps are converted instead.
  std::int64_t band_floats() const;
  // Whether the blocks are one to a group, so that a map is read once.
  bool by_band() const;
  // Whether somebody asks for the counts.
  bool counts() const { return task.skipped != nullptr || task.macs != nullptr; }
  // The channel of Y that channel `i` of the plan's order is.
  std::int64_t channel(std::int64_t i) const { return plan.order[static_cast<std::size_t>(i)]; }

  const ConvTask& task;
  const ConvPlan& plan;
  const ConvKernels& kernels;
  const ConvAttributes& attributes;
  const ConvShape& shape;
  const PaddedMap map;
  const Bands bands;
  // Of SharedMemory:
  const float* bias = nullptr;  // in the plan's order, plan.stride zeros behind it
  ConvSpan span{};
  std::int64_t place_inputs[kMostPositions];  // from a patch's first place to its others
};

// The memory that all threads share, for `images` images at a time.
struct SharedMemory {
  SharedMemory(ScratchLayout& layout, const ConvRun& run, std::int64_t images);

  // Biases in the plan's order, and where a position's inputs lie; both for `run` to point at.
  void fill_constants(ConvRun& run) const;

  float* maps;
  unsigned char* states;
  const float** planes;
  float* bias;
  std::int64_t* steps;
};

}  // namespace spatialonnx

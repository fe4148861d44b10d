// A job of SpatialConv: a block of channels on a band of patches of one image.
//
//     read_residual      NCHW -> [position][channel]                      band_io.h
//     stage 1            the probes of all channels of the block          probe_stage.h
//     stage 2            patch by patch, the others of those that fired   other_stage.h
//     write_planes       [position][channel] -> NCHW                      band_io.h
//
// Stage 2 gathers the channels that fired and computes their other positions with filters reached
// through pointers, so that any subset of channels costs what it computes and nothing else. Where
// channels differ in their patterns patch by patch, both stages are done patch by patch
// (mixed_stage.h).
#pragma once

#include <cstdint>

#include "spatial_conv/patches.h"
#include "spatial_conv/worker.h"

namespace spatialonnx {

struct Job {
  const ConvRun& run;
  Worker& worker;
  std::int64_t image;
  const ConvBlock& block;
  const ConvBlock* next;  // of the job after this one, where it is another block
  BandPatches patches;

  std::int64_t octets() const { return (block.count + 7) / 8; }
  const float* filter(std::int64_t channel) const {
    return run.plan.filters.data() + (block.first + channel) * run.plan.filter_length;
  }
  // For channels from `channel` of the block on; `residual` as ConvFinish.
  ConvFinish finish(std::int64_t channel, const float* const* residual) const {
    return {.bias = run.bias + block.first + channel,
            .residual = run.task.residual == nullptr ? nullptr : residual,
            .clip_max = run.attributes.clip_max};
  }
};

// Positions of a patch as the kernels take them.
struct Positions {
  int count = 0;
  const float* x[kMostPositions];
  float* out[kMostPositions];
  const float* residual[kMostPositions];

  void add(const Job& job, const PatchStart& patch, const int* places, int number);
};

void run_job(Job& job);

}  // namespace spatialonnx

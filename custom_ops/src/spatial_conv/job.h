// A job of SpatialConv: a block of channels on a band of patches of one image.
//
// Stage 1 computes the probes of all channels of the block. Stage 2 gathers, patch by patch, the
// channels that fired and computes their other positions with rows of weights reached through
// pointers, so that any subset of channels costs what it computes and nothing else. Finished
// outputs wait channels-last in the staging buffer and leave for Y's planes together.
#pragma once

#include <cstdint>

#include "spatial_conv/run.h"

namespace spatialonnx {

// The places of a patch inside the map: probes and others. The places of a blind patch are all
// probes: it is computed in full.
struct Places {
  Places() = default;
  Places(unsigned pattern, unsigned inside, std::int64_t patch_size) {
    const unsigned seen = (pattern & inside) != 0 ? pattern & inside : inside;
    for (int i = 0; i < patch_size * patch_size; ++i) {
      if (seen >> i & 1) {
        probe[probes++] = i;
      } else if (inside >> i & 1) {
        other[others++] = i;
      }
    }
  }

  int probes = 0;
  int others = 0;
  int probe[kMostPositions];
  int other[kMostPositions];
};

// Where a patch of the band begins.
struct PatchStart {
  std::int64_t row;  // of patches, in the band
  std::int64_t column;
  const float* x;         // the inputs of its first place
  std::int64_t position;  // of that place, in the staging buffer
};

// A patch whose probes are computed.
struct Unfinished {
  PatchStart start;
  Places places;
};

// Positions as the kernels take them.
struct Positions {
  int count = 0;
  const float* x[kMostPositions];
  float* out[kMostPositions];
  const float* residual[kMostPositions];
};

class Job {
 public:
  // `next`: the block of the job after this one, where it is another one.
  Job(const ConvRun& run, Worker& worker, std::int64_t image, MapRows rows, const ConvBlock& block,
      const ConvBlock* next, std::int64_t band);

  void run();

 private:
  unsigned inside(std::int64_t row, std::int64_t column) const;
  Places places(std::int64_t row, std::int64_t column, std::int64_t channel) const;
  const Places& shared_places(std::int64_t row, std::int64_t column);
  PatchStart start(std::int64_t row, std::int64_t column) const;
  void add_positions(const PatchStart& patch, const int* places, int count, Positions& to) const;
  ConvFinish finish(std::int64_t channel, const float* const* residual) const;

  void expect_rows(const ConvBlock& block);
  void expect_next(bool by_panels);
  void expect_writes() const;
  void read_residual();
  void list_probes();
  std::int64_t probes() const { return worker_.first_probe[patch_rows_ * patch_columns_]; }
  bool panels_pay() const;
  void run_panels();
  void run_rows(std::int64_t channel);
  void count_probes(const Unfinished& patch);
  void find_fired(const Unfinished& patch, unsigned char* bits);
  void compute_fired(const unsigned char* bits, const Positions& at, bool keep);
  void finish_patches();
  void finish_patch(const Unfinished& patch);
  void finish_pair(const Unfinished& patch, const Unfinished& next);
  void finish_mixed_patches();
  void finish_mixed_patch(const PatchStart& patch);
  void finish_alike(const Places& places, const PatchStart& patch, const std::int32_t* channels,
                    std::int64_t count);
  void compute_rows(const std::int32_t* channels, std::int64_t count, const Positions& at);
  void multiply(std::int64_t rows, const float* const* x, int positions);
  void multiply_rows(std::int64_t rows, const float* const* x, int positions, int across, float* sums);
  float finished(float sum, std::int64_t channel, const float* residual) const;
  void write_planes();
  void add_counts();

  bool counts() const { return task_.skipped != nullptr || task_.macs != nullptr; }
  std::int64_t groups_of_8() const { return (block_.count + 7) / 8; }
  std::int64_t sums_stride() const { return plan_.stride + 16; }

  const ConvRun& run_;
  const ConvTask& task_;
  const ConvPlan& plan_;
  const ConvKernels& kernels_;
  Worker& worker_;
  const std::int64_t image_;
  const MapRows input_;
  const ConvBlock& block_;
  const ConvBlock* next_;
  const PatchGrid& grid_;
  std::int64_t patch_row_;  // the band's first patch
  std::int64_t patch_column_;
  std::int64_t patch_rows_;
  std::int64_t patch_columns_;
  std::int64_t y_;  // its first position
  std::int64_t x_;
  std::int64_t height_;
  std::int64_t width_;
  std::int64_t place_positions_[kMostPositions];  // from a patch's first place to its others
  // Of a mask that is the same everywhere: of whole patches, and of those cut by a border.
  Places uniform_[4];
  Places varying_;
};

}  // namespace spatialonnx

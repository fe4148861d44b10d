// A run of SpatialConv: how it is cut into jobs, what they share, and what each thread works with.
#pragma once

#include <cstdint>

#include "spatial_conv/spatial_conv.h"
#include "spatial_conv/map.h"

namespace spatialonnx {

// How a map is cut into bands, which are rectangles of patches.
struct Bands {
  // Of at least so many positions, where the map has them.
  Bands(const PatchGrid& grid, std::int64_t least_positions);

  std::int64_t rows;  // of patches, in the map
  std::int64_t patch_columns;  // of a band; the last ones of a map may have fewer
  std::int64_t down;  // bands in a map
  std::int64_t across;

  std::int64_t count() const { return down * across; }
  // Rows of patches are spread evenly; the first band has no fewer than any other.
  std::int64_t first_row(std::int64_t band) const { return begin(band / across); }
  std::int64_t row_count(std::int64_t band) const {
    return begin(band / across + 1) - begin(band / across);
  }
  std::int64_t patches() const { return begin(1) * patch_columns; }

 private:
  std::int64_t begin(std::int64_t row) const { return (row * rows + down - 1) / down; }
};

// What all jobs of a run share.
struct ConvRun {
  ConvRun(const ConvTask& task, const ConvPlan& plan, const ConvKernels& kernels,
          std::int64_t threads);

  // The rows of the padded map that a band's outputs read: first, and behind the last.
  Pair input_rows(std::int64_t band) const;
  // The most that any band reads, in floats; 0 where whole maps are converted instead.
  std::int64_t band_floats() const;
  // Whether the blocks are one to a group, so that a map is read once.
  bool by_band() const;

  const ConvTask& task;
  const ConvPlan& plan;
  const ConvKernels& kernels;
  const ConvAttributes& attributes;
  const ConvShape& shape;
  const PaddedMap map;
  const Bands bands;
  const float* bias = nullptr;  // in the plan's order, plan.stride zeros behind it
  ConvSpan span{};
  std::int64_t place_inputs[kMostPositions];  // from a patch's first place to its others
};

// Takes pieces off one allocation, each aligned for vectors. With a null start it only measures.
class Pieces {
 public:
  explicit Pieces(char* start) : start_(start) {}

  template <class T>
  T* take(std::int64_t count) {
    T* piece = start_ == nullptr ? nullptr : reinterpret_cast<T*>(start_ + used_);
    const std::int64_t bytes = checked_product(count, sizeof(T));
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return piece;
  }

  std::int64_t used() const { return used_; }

 private:
  static constexpr std::int64_t kAlignment = 64;
  char* start_;
  std::int64_t used_ = 0;
};

// Weights that are soon wanted. What the third-level cache holds comes late unless it is asked for
// while other weights are multiplied.
class Ahead {
 public:
  void expect(const float* begin, std::int64_t count) {
    at_ = begin;
    end_ = begin + count;
  }

  // The next `count` floats to fetch; null where nothing is left.
  const float* take(std::int64_t count) {
    if (at_ >= end_) return nullptr;
    const float* taken = at_;
    at_ += count;
    return taken;
  }

 private:
  const float* at_ = nullptr;
  const float* end_ = nullptr;
};

// The memory that one thread works with.
struct Worker {
  Worker(Pieces& pieces, const ConvRun& run);

  Ahead ahead;
  const ConvBlock* last_block = nullptr;
  BandRows band_rows;
  float* staging;   // finished outputs: [position of the band][channel of the block]
  float* residual;  // the same
  float* sums;      // [position of a patch][channel]
  const float** probe_x;  // per probe of the band: its inputs, ...
  float** probe_out;      // ... its place in staging, ...
  const float** probe_residual;
  std::int32_t* first_probe;  // per patch of the band
  unsigned char* bits;        // per eight channels of the block: what fired
  unsigned char* next_bits;   // the same of the next patch
  unsigned char* common_bits;
  std::int32_t* channels;     // of the block, that fired
  const float** rows;         // their weights
  float** planes;             // of Y, per channel of the block
  const float** residual_planes;
  std::int64_t* skipped;  // outputs, per channel of the block
  std::int64_t* computed;
};

}  // namespace spatialonnx

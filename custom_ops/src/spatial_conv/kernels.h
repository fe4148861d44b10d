// The vector kernels of SpatialConv: one source, compiled once per instruction set, functions over
// raw pointers. What they have to do with patches and masks is in spatial_conv_engine.cc.
//
// A position is an output's place in the map. Its inputs lie in a zero-padded channels-last copy of
// X, in `segments` runs of `length` floats; a position is handed over as the address of the first.
// The same inputs' weights are a row (one channel, contiguous along the same order, every segment
// padded with zeros to whole vectors) or part of a panel (panel_channels channels interleaved).
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace spatialonnx {

struct ConvSpan {
  std::int64_t segments;
  std::int64_t length;       // floats of a segment
  const std::int64_t* step;  // from the start of segment s to that of segment s + 1
};

// What becomes of a sum: + bias + residual, then zero unless above zero (NaN stays), then clipped.
struct ConvFinish {
  const float* bias;             // per channel
  const float* const* residual;  // per position, then per channel; null: none
  float clip_max;
};

// The rows that ask for `positions` positions at once: as many as there are registers for.
inline constexpr int kMostTilePositions = 8;
inline constexpr int kMostTileRows = 10;
// A patch's positions, and the most that one call takes anywhere.
inline constexpr int kMostPositions = 16;
// Floats of a cache line.
inline constexpr std::int64_t kConvLine = 16;
// Floats that a kernel may read or write behind the end of a buffer.
inline constexpr std::int64_t kConvSlack = 32;

// Sums of `rows` x `positions`: out[j * out_stride + i] = row i * position j. Up to three floats
// behind the last row of each position are overwritten. One variant meanwhile fetches half as many
// floats as a row has into the second-level cache, from `ahead` on.
using ConvTile = void (*)(const ConvSpan& span, const float* const* rows,
                          const float* const* positions, const float* ahead, float* out,
                          std::int64_t out_stride);

// panel_channels channels of some positions, finished, to out[position][channel]. One variant
// fetches half a cache line from `ahead` on for each input of a position.
using ConvPanel = void (*)(const ConvSpan& span, const float* weights,
                           const float* const* positions, const float* ahead,
                           const ConvFinish& finish, float* const* out);

struct ConvKernels {
  int lanes;
  int panel_channels;
  int panel_positions;
  unsigned char tile_rows[kMostTilePositions + 1];  // most rows of a tile, by its positions
  unsigned char first_tile[kMostPositions + 1];     // where to cut a number of positions
  ConvPanel panel[13][2];                           // by positions, and whether it fetches
  ConvTile tile[kMostTilePositions + 1][kMostTileRows + 1][2];

  // bits[g], bit i: whether channel 8 g + i of any of `count` finished positions is not zero.
  void (*fired)(const float* const* positions, int count, std::int64_t groups, unsigned char* bits);

  // The channels whose bit is set, in order; returns their number. May write 8 behind the last.
  std::int64_t (*compress)(const unsigned char* bits, std::int64_t groups, std::int32_t* channels);

  // Finishes sums of the channels whose bit is set (compact: sums[j * sums_stride + rank]) and
  // writes them to out[j][channel]; the other channels become zero, or stay with `keep`.
  void (*expand)(const unsigned char* bits, std::int64_t groups, const float* sums,
                 std::int64_t sums_stride, int positions, const ConvFinish& finish, bool keep,
                 float* const* out);

  // rows[q][c] = planes[c][offset + q] for q < count <= 16.
  void (*gather)(const float* const* planes, std::int64_t channels, std::int64_t offset, int count,
                 float* const* rows);

  // planes[c][offset + q] = rows[q * stride + c] for q < count. Rows are padded to 8 channels.
  void (*scatter)(const float* rows, std::int64_t stride, std::int64_t count,
                  float* const* planes, std::int64_t channels, std::int64_t offset);
};

#define X(isa)                            \
  namespace isa {                         \
  extern const ConvKernels conv_kernels;  \
  }
SPATIALONNX_VECTOR_ISAS(X)
#undef X

}  // namespace spatialonnx

// The vector kernels of SpatialConv: one source, compiled once per instruction set, functions over
// raw pointers. What they have to do with patches and masks is in probe_stage.cc and other_stage.cc.
//
// A position is an output's place in the map. Its inputs lie in a zero-padded channels-last copy of
// X (padded_map.h), in `segments` runs of `length` floats; a position is handed over as the address
// of the first. A filter is the weights of one output channel along the same order, every segment
// padded with zeros to whole vectors. A panel holds the weights of panel_channels channels,
// interleaved. An octet is eight neighbouring channels.
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

// The most positions and filters of a tile: as many as there are registers for.
inline constexpr int kMostTilePositions = 8;
inline constexpr int kMostTileFilters = 10;
inline constexpr int kMostPanelPositions = 12;
// A patch's positions, and the most that one call takes anywhere.
inline constexpr int kMostPositions = 16;
// Floats of a cache line.
inline constexpr std::int64_t kConvLine = 16;
// Floats that a kernel may read or write behind the end of a buffer.
inline constexpr std::int64_t kConvSlack = 32;

// Sums of filters x positions: out[j * out_stride + i] = filter i * position j. Up to three floats
// behind the last filter of each position are overwritten.
using ConvTile = void (*)(const ConvSpan& span, const float* const* filters,
                          const float* const* positions, std::uintptr_t ahead, float* out,
                          std::int64_t out_stride);

// panel_channels channels of some positions, finished, to out[position][channel].
using ConvPanel = void (*)(const ConvSpan& span, const float* weights,
                           const float* const* positions, std::uintptr_t ahead,
                           const ConvFinish& finish, float* const* out);

// A kernel in two builds. The second one meanwhile fetches weights that come later (prefetch.h) into
// the second-level cache, from address `ahead` on: a tile fetches half as many floats as a filter
// has, a panel half a cache line for each input of a position.
template <class Function>
struct FetchingPair {
  Function plain;
  Function fetching;

  Function choose(std::uintptr_t ahead) const { return ahead != 0 ? fetching : plain; }
};

struct ConvKernels {
  int lanes;
  int panel_channels;
  int panel_positions;
  unsigned char tile_filters[kMostTilePositions + 1];  // most filters of a tile, by its positions
  unsigned char first_tile[kMostPositions + 1];        // positions of the first tile, of so many
  FetchingPair<ConvPanel> panel[kMostPanelPositions + 1];                     // by positions
  FetchingPair<ConvTile> tile[kMostTilePositions + 1][kMostTileFilters + 1];  // and by filters

  // bits[g], bit i: whether channel 8 g + i of any of `count` finished positions exceeds the
  // channel's threshold, or is NaN.
  void (*fired)(const float* const* positions, int count, std::int64_t octets,
                const float* thresholds, unsigned char* bits);

  // The channels whose bit is set, in order; returns their number. May write 8 behind the last.
  std::int64_t (*compress)(const unsigned char* bits, std::int64_t octets, std::int32_t* channels);

  // Finishes sums of the channels whose bit is set (compact: sums[j * sums_stride + rank]) and
  // writes them to out[j][channel]; the other channels become zero, or stay with `keep`.
  void (*expand)(const unsigned char* bits, std::int64_t octets, const float* sums,
                 std::int64_t sums_stride, int positions, const ConvFinish& finish, bool keep,
                 float* const* out);

  // pixels[q][c] = planes[c][offset + q] for q < count <= 16.
  void (*gather)(const float* const* planes, std::int64_t channels, std::int64_t offset, int count,
                 float* const* pixels);

  // planes[c][offset + q] = pixels[q * stride + c] for q < count. Pixels are padded to octets.
  void (*scatter)(const float* pixels, std::int64_t stride, std::int64_t count,
                  float* const* planes, std::int64_t channels, std::int64_t offset);
};

#define X(isa)                            \
  namespace isa {                         \
  extern const ConvKernels conv_kernels;  \
  }
SPATIALONNX_VECTOR_ISAS(X)
#undef X

}  // namespace spatialonnx

// The vector kernels of SpatialQConv: one source, compiled once per instruction set, functions over
// raw pointers. What they have to do with patches and masks is in job.h.
//
// A position is an output's place in the map. Its inputs lie in a padded channels-last map, in
// `segments` runs of `length` bytes; a position is handed over as the address of the first. The same
// inputs' weights are a row (one channel; every segment padded with zeros to kQConvLine bytes) or
// part of a panel (panel_channels channels interleaved, four inputs of each at a time; every segment
// padded with zeros to panel_inputs inputs). A kernel may read inputs up to kQConvLine bytes behind a
// segment: they meet zeros.
//
// Channels are handed over 64 at a time, as bits of a word.
#pragma once

#include <cstdint>

#include "core/isa.h"
#include "spatial_qconv/requantise.h"

namespace spatialonnx {

inline constexpr std::int64_t kQConvLine = 64;
inline constexpr int kQConvTilePositions = 4;
inline constexpr int kQConvTileRows = 12;
// Sums that a tile may write behind its last row.
inline constexpr int kQConvSumSlack = 3;

struct QConvSpan {
  std::int64_t segments;
  std::int64_t length;       // bytes of a segment
  const std::int64_t* step;  // of X, from the start of segment s to that of segment s + 1
};

// Where finished outputs go: elements of Y (and of the residual) by position, channel 0 of the node.
struct QConvOutputs {
  std::uint8_t* y;
  const std::uint8_t* residual;  // null: none
};

// Sums of `rows` x `positions`: out[j * out_stride + i] = row i * position j. Up to kQConvSumSlack
// sums behind the last row of each position are overwritten.
using QConvTile = void (*)(const QConvSpan& span, const std::int8_t* const* rows,
                           const std::uint8_t* const* positions, std::int32_t* out,
                           std::int64_t out_stride);

// The panels of a block of channels, and the number of its first channel.
struct QConvPanels {
  const std::int8_t* weights;
  std::int64_t panel_bytes;
  std::int64_t channel;
  std::int64_t channels;
};

// All channels of some panels at up to dense_positions positions, finished. at[j]: the element of Y
// where position j begins. `scratch` holds the inputs of scratch_positions positions.
using QConvDense = void (*)(const QConvSpan& span, const QConvPanels& panels,
                            const Requantise& requantise, const QConvOutputs& outputs,
                            const std::uint8_t* const* positions, const std::int64_t* at, int count,
                            std::uint8_t* scratch);

// The sums of all channels of some panels at some positions, in the order of the panels:
// out[j * out_stride + i]. Writes whole panels.
using QConvPanelSums = void (*)(const QConvSpan& span, const QConvPanels& panels,
                                const std::uint8_t* const* positions, int count, std::int32_t* out,
                                std::int64_t out_stride);

struct QConvKernels {
  std::uint8_t input_flip;  // the map holds X ^ input_flip: 128 where inputs are multiplied as s8
  // Whether panels are so fast that computing a patch in full and then setting outputs to zero takes
  // less time than leaving them out.
  bool dense_is_cheap;
  int panel_channels;  // 0: no panels
  int panel_inputs;
  int dense_positions;
  int scratch_positions;  // whose inputs `dense` copies
  QConvDense dense;
  QConvPanelSums panel_sums;  // null: none
  unsigned char tile_rows[kQConvTilePositions + 1];  // most rows of a tile, by its positions
  QConvTile tile[kQConvTilePositions + 1][kQConvTileRows + 1];

  // The rows (row_bytes apart, from `first` on) whose bit is set, in order; returns their number.
  // May write 8 behind the last.
  int (*list_rows)(std::uint64_t bits, const std::int8_t* first, std::int64_t row_bytes,
                   const std::int8_t** rows);

  // The channels of `members` whose output is above its limit at any of `count` positions. Bit i is
  // channel `channel` + i.
  std::uint64_t (*fired)(const Requantise& requantise, const std::uint8_t* y, std::int64_t channel,
                         std::uint64_t members, const std::int64_t* at, int count);

  // Finishes the sums of channels whose bit is set in `fired` (compact: sums[j * sums_stride + rank])
  // and writes them; the other channels of `members` become y_zero_point, what is no member stays.
  void (*finish)(const Requantise& requantise, const QConvOutputs& outputs, std::int64_t channel,
                 std::uint64_t fired, std::uint64_t members, const std::int32_t* sums,
                 std::int64_t sums_stride, const std::int64_t* at, int count);
};

#define X(isa)                             \
  namespace isa {                          \
  extern const QConvKernels qconv_kernels; \
  }
SPATIALONNX_INT8_ISAS(X)
#undef X

}  // namespace spatialonnx

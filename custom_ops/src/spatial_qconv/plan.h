// What a SpatialQConv node knows before its first run: weights in the kernels' order, channels in
// blocks that are worked on together, and what patterns a block's channels have.
#pragma once

#include <cstdint>
#include <vector>

#include "core/aligned_array.h"
#include "core/mask_view.h"
#include "spatial_conv/conv_shape.h"
#include "spatial_qconv/kernels.h"

namespace spatialonnx {

// Channels of a block: bit i of word w is its channel 64 w + i.
inline constexpr std::int64_t kQConvWords = 8;
inline constexpr std::int64_t kQConvBlockChannels = 64 * kQConvWords;

struct QConvMembers {
  std::uint64_t word[kQConvWords] = {};

  void add(std::int64_t channel) { word[channel / 64] |= std::uint64_t{1} << channel % 64; }
  bool has(std::int64_t channel) const { return word[channel / 64] >> channel % 64 & 1; }
  // Of the first `words` words.
  int count(std::int64_t words) const {
    int bits = 0;
    for (std::int64_t w = 0; w < words; ++w) bits += __builtin_popcountll(word[w]);
    return bits;
  }
};

// Channels with the same pattern.
struct QConvSet {
  std::int64_t channel;  // one of them, of Y: the mask has the pattern
  bool all;              // whether it is the whole block
  QConvMembers members;
  std::int64_t count;     // of members
  std::int64_t panel_at;  // where its panels begin, in bytes; -1: it has none of its own
};

// Channels of one group whose weights fit the second-level cache together: first .. first + count - 1
// of Y.
struct QConvBlock {
  std::int64_t group;
  std::int64_t first;
  std::int64_t count;
  std::vector<QConvSet> sets;  // none where the channels' patterns differ patch by patch
  std::int64_t panel_at;       // where its panels begin, in bytes; -1: its sets may have some

  std::int64_t words() const { return (count + 63) / 64; }
};

struct QConvPlan {
  // `mask` has the given number of rows and columns of patches (1 x 1: one for all).
  QConvPlan(const ConvAttributes& attributes, const std::int8_t* w, const MaskView& mask,
            PerAxis mask_patches, const QConvKernels& kernels);

  // Of block `block` in patch `patch` of the mask, where channels' patterns differ patch by patch:
  // its channels (0 .. count - 1) sorted by pattern.
  const std::uint16_t* sorted_channels(const QConvBlock& block, std::int64_t patch) const {
    return sorted.data() + block.first * mask_patch_count + patch * block.count;
  }

  bool dense;  // nothing may be predicted: all patterns are full
  bool everything;  // all positions are computed, predicted or not
  bool unfolded;  // the map holds every position's inputs side by side: one segment
  std::vector<QConvBlock> blocks;
  // The same channels, a word at a time, for threads that have no block of their own; none where
  // patterns differ patch by patch, sets have panels, or kernels copy inputs for each block.
  std::vector<QConvBlock> pieces;
  std::int64_t segments;
  std::int64_t segment_length;
  std::int64_t row_bytes;           // of a channel's weights, 0 where there are no rows
  std::int64_t panel_bytes;         // of a panel's weights, 0 where there are no panels
  AlignedArray<std::int8_t> rows;    // [channel][segment][input]
  // [block or set of it][panel][segment][four inputs][channel of it][input]
  AlignedArray<std::int8_t> panels;
  std::int64_t mask_patch_count;
  std::vector<std::uint16_t> sorted;
};

}  // namespace spatialonnx

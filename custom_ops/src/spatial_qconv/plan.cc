#include "spatial_qconv/plan.h"

#include <algorithm>
#include <numeric>

#include "core/patch_grid.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace spatialonnx {
namespace {

using std::int64_t;

// Rows and panels are both kept, where both are used, up to so many bytes of weights: beyond it a
// second copy costs more to read than panels gain.
constexpr int64_t kMostTwoCopies = int64_t{64} << 10;

// Channels of a set that are worth panels of their own: fewer leave most of one empty.
constexpr int64_t kLeastPanelChannels = 16;

int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// The part of the second-level cache that a block's weights may take; the map and Y need the rest.
int64_t cache_for_weights() {
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
  const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size >= 128 * 1024) return std::min<int64_t>(size, 1 << 20) * 3 / 8;
#endif
  return 320 * 1024;
}

// The channels of a block by their pattern, where that is the same in all patches.
std::vector<QConvSet> sets_of(const MaskView& mask, bool by_channel, int64_t first,
                              int64_t count) {
  std::vector<QConvSet> sets;
  for (int64_t c = 0; c < count; ++c) {
    const auto pattern = mask.at(first + c, 0, 0);
    auto set = std::ranges::find_if(sets, [&](const QConvSet& other) {
      return !by_channel || mask.at(other.channel, 0, 0) == pattern;
    });
    if (set == sets.end()) set = sets.insert(sets.end(), {first + c, false, {}, 0, -1});
    set->members.add(c);
    ++set->count;
  }
  sets.front().all = sets.size() == 1;
  return sets;
}

// Cuts the channels of every group into blocks of whole words that fit the cache.
std::vector<QConvBlock> cut_blocks(const ConvAttributes& attributes, const MaskView& mask,
                                   bool by_channel, bool mixed, int64_t channel_bytes) {
  const int64_t per_group = attributes.outputs / attributes.groups;
  const int64_t fit = std::clamp<int64_t>(cache_for_weights() / channel_bytes / 64 * 64, 64,
                                          kQConvBlockChannels);
  const int64_t pieces = (per_group + fit - 1) / fit;
  const int64_t even = round_up((per_group + pieces - 1) / pieces, 64);
  std::vector<QConvBlock> blocks;
  for (int64_t group = 0; group < attributes.groups; ++group) {
    for (int64_t c = 0; c < per_group; c += even) {
      const int64_t first = group * per_group + c;
      const int64_t count = std::min(even, per_group - c);
      blocks.push_back({.group = group,
                        .first = first,
                        .count = count,
                        .sets = mixed ? std::vector<QConvSet>()
                                      : sets_of(mask, by_channel, first, count),
                        .panel_at = -1});
    }
  }
  return blocks;
}

// Blocks of one word each, of the same panels.
std::vector<QConvBlock> cut_pieces(const std::vector<QConvBlock>& blocks, const MaskView& mask,
                                   bool by_channel, int64_t panel_bytes, int64_t panel_channels) {
  std::vector<QConvBlock> pieces;
  for (const QConvBlock& block : blocks) {
    for (int64_t c = 0; c < block.count; c += 64) {
      const int64_t first = block.first + c;
      const int64_t count = std::min<int64_t>(64, block.count - c);
      const int64_t panel_at =
          block.panel_at < 0 ? -1 : block.panel_at + c / panel_channels * panel_bytes;
      pieces.push_back({.group = block.group,
                        .first = first,
                        .count = count,
                        .sets = sets_of(mask, by_channel, first, count),
                        .panel_at = panel_at});
    }
  }
  return pieces;
}

// Calls body(channel, k, weight) for every weight; k counts the inputs of a position in the order of
// the map: tap by tap.
template <class Body>
void each_weight(const ConvAttributes& attributes, const std::int8_t* w, const QConvBlock& block,
                 Body&& body) {
  const int64_t area = attributes.kernel[0] * attributes.kernel[1];
  for (int64_t c = 0; c < block.count; ++c) {
    const std::int8_t* from = w + (block.first + c) * attributes.macs();
    for (int64_t tap = 0; tap < area; ++tap) {
      for (int64_t i = 0; i < attributes.inputs; ++i) {
        body(c, tap * attributes.inputs + i, from[i * area + tap]);
      }
    }
  }
}

void pack_rows(const ConvAttributes& attributes, const std::int8_t* w, QConvPlan& plan) {
  const int64_t padded = plan.row_bytes / plan.segments;
  for (const QConvBlock& block : plan.blocks) {
    std::int8_t* rows = plan.rows.data() + block.first * plan.row_bytes;
    each_weight(attributes, w, block, [&](int64_t c, int64_t k, std::int8_t weight) {
      rows[c * plan.row_bytes + k / plan.segment_length * padded + k % plan.segment_length] = weight;
    });
  }
}

// Where every channel of a block has its place in panels: in bytes where its panels begin, and its
// rank in them; -1 where it has none.
struct PanelPlace {
  int64_t at = -1;
  int64_t rank = 0;
};

std::vector<PanelPlace> panel_places(const QConvBlock& block) {
  std::vector<PanelPlace> places(static_cast<std::size_t>(block.count));
  if (block.panel_at >= 0) {
    for (int64_t c = 0; c < block.count; ++c) {
      places[static_cast<std::size_t>(c)] = {block.panel_at, c};
    }
    return places;
  }
  for (const QConvSet& set : block.sets) {
    int64_t rank = 0;
    for (int64_t c = 0; c < block.count; ++c) {
      if (set.members.has(c)) places[static_cast<std::size_t>(c)] = {set.panel_at, rank++};
    }
  }
  return places;
}

void pack_panels(const ConvAttributes& attributes, const std::int8_t* w,
                 const QConvKernels& kernels, QConvPlan& plan) {
  const int64_t width = kernels.panel_channels;
  const int64_t padded = plan.panel_bytes / width / plan.segments;
  for (const QConvBlock& block : plan.blocks) {
    const std::vector<PanelPlace> places = panel_places(block);
    each_weight(attributes, w, block, [&](int64_t c, int64_t k, std::int8_t weight) {
      const PanelPlace& place = places[static_cast<std::size_t>(c)];
      if (place.at < 0) return;
      const int64_t at = k / plan.segment_length * padded + k % plan.segment_length;
      plan.panels[static_cast<std::size_t>(place.at + place.rank / width * plan.panel_bytes +
                                           at / 4 * 4 * width + place.rank % width * 4 + at % 4)] =
          weight;
    });
  }
}

void sort_channels(const MaskView& mask, PerAxis mask_patches, QConvPlan& plan) {
  for (const QConvBlock& block : plan.blocks) {
    for (int64_t patch = 0; patch < plan.mask_patch_count; ++patch) {
      const auto begin = plan.sorted.insert(plan.sorted.end(), block.count, 0);
      std::iota(begin, plan.sorted.end(), std::uint16_t{0});
      const auto pattern_of = [&](std::uint16_t c) {
        return mask.at(block.first + c, patch / mask_patches[1], patch % mask_patches[1]);
      };
      std::stable_sort(begin, plan.sorted.end(), [&](std::uint16_t a, std::uint16_t b) {
        return pattern_of(a) < pattern_of(b);
      });
    }
  }
}

// Whether any pattern lets positions be predicted.
bool predicts(const MaskView& mask, int64_t channels, PerAxis mask_patches, int64_t patch_size) {
  const int64_t stored = mask.channel_stride == 0 ? 1 : channels;
  for (int64_t c = 0; c < stored; ++c) {
    for (int64_t patch = 0; patch < mask_patches[0] * mask_patches[1]; ++patch) {
      const int64_t pattern = mask.at(c, patch / mask_patches[1], patch % mask_patches[1]);
      if (pattern != full_pattern(patch_size)) return true;
    }
  }
  return false;
}

}  // namespace

QConvPlan::QConvPlan(const ConvAttributes& attributes, const std::int8_t* w, const MaskView& mask,
                     PerAxis mask_patches, const QConvKernels& kernels)
    : dense(!predicts(mask, attributes.outputs, mask_patches, attributes.patch_size)),
      everything(kernels.panel_channels != 0 && (dense || kernels.dense_is_cheap)),
      mask_patch_count(mask_patches[0] * mask_patches[1]) {
  // Neighbouring taps lie side by side in a channels-last map, so a row of the kernel is one run.
  const bool whole_rows = attributes.dilation[1] == 1;
  segments = attributes.kernel[0] * (whole_rows ? 1 : attributes.kernel[1]);
  segment_length = attributes.inputs * (whole_rows ? attributes.kernel[1] : 1);
  row_bytes = segments * round_up(segment_length, kQConvLine);
  // Short segments are mostly padding: those of an image's three channels.
  const int64_t unfolded_bytes = round_up(attributes.macs(), kQConvLine);
  unfolded = attributes.groups == 1 && 2 * unfolded_bytes <= row_bytes;
  if (unfolded) {
    segments = 1;
    segment_length = attributes.macs();
    row_bytes = unfolded_bytes;
  }
  const bool by_channel = mask.channel_stride != 0 && !dense;
  const bool mixed = by_channel && (mask.row_stride != 0 || mask.column_stride != 0);
  const bool rows_used = !everything;
  const bool two_copies =
      kernels.panel_channels != 0 && row_bytes * attributes.outputs <= kMostTwoCopies;
  const bool block_panels = everything || (!by_channel && two_copies);
  const bool set_panels = !block_panels && by_channel && !mixed && kernels.panel_sums != nullptr;
  const bool panels_used = block_panels || set_panels;
  blocks = cut_blocks(attributes, mask, by_channel, mixed, row_bytes * (1 + (rows_used && two_copies)));
  panel_bytes = panels_used ? segments * round_up(segment_length, kernels.panel_inputs) *
                                  kernels.panel_channels
                            : 0;
  if (rows_used) {
    rows = AlignedArray<std::int8_t>(static_cast<std::size_t>(row_bytes * attributes.outputs));
    pack_rows(attributes, w, *this);
  } else {
    row_bytes = 0;
  }
  if (panels_used) {
    int64_t bytes = 0;
    const auto place = [&](int64_t& at, int64_t channels) {
      at = bytes;
      bytes += (channels + kernels.panel_channels - 1) / kernels.panel_channels * panel_bytes;
    };
    for (QConvBlock& block : blocks) {
      if (block_panels) place(block.panel_at, block.count);
      for (QConvSet& set : block.sets) {
        // What is off needs no rows.
        const bool off = mask.at(set.channel, 0, 0) == full_pattern(attributes.patch_size);
        const bool own = set_panels && set.count >= kLeastPanelChannels && (off || two_copies);
        if (own) place(set.panel_at, set.count);
      }
    }
    panels = AlignedArray<std::int8_t>(static_cast<std::size_t>(bytes));
    pack_panels(attributes, w, kernels, *this);
  }
  if (!mixed && !set_panels && kernels.scratch_positions == 0) {
    pieces = cut_pieces(blocks, mask, by_channel, panel_bytes, kernels.panel_channels);
  }
  if (mixed) sort_channels(mask, mask_patches, *this);
}

}  // namespace spatialonnx

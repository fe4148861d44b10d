#include "spatial_conv/plan.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace spatialonnx {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Weights beyond this many bytes are stored once: reading a second copy from the third-level cache
// costs more than panels gain.
constexpr std::int64_t kMostPanelBytes = std::int64_t{4} << 20;
// Of a block: the finished outputs of a band have to stay in cache too.
constexpr std::int64_t kMostChannels = 256;

std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

// The part of the second-level cache that a block's weights may take, both copies of them, or one and
// the next block's, which are fetched meanwhile.
std::int64_t cache_for_weights() {
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
  const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size >= 128 * 1024) return std::min<std::int64_t>(size, 2 << 20) * 3 / 8;
#endif
  return 320 * 1024;
}

bool varies_over_patches(const MaskView& mask) {
  return mask.row_stride != 0 || mask.column_stride != 0;
}

}  // namespace

AlignedFloats::AlignedFloats(std::size_t count) {
  std::size_t bytes = count * sizeof(float);
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  bytes = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, bytes);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  // Only a hint: without it the weights take more entries of the address cache.
  if (alignment == kHugePage) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  std::memset(memory, 0, bytes);
  memory_.reset(static_cast<float*>(memory));
}

void AlignedFloats::Free::operator()(float* memory) const { std::free(memory); }

namespace {

// Cuts the channels of every group, in order, into blocks of one pattern that fit the cache.
void cut_blocks(const ConvAttributes& attributes, const MaskView& mask, std::int64_t filter_bytes,
                bool panels, const ConvKernels& kernels, ConvPlan& plan) {
  const std::int64_t per_group = attributes.outputs / attributes.groups;
  const bool by_channel = mask.channel_stride != 0;
  const bool mixed = by_channel && varies_over_patches(mask);
  const std::int64_t width = kernels.panel_channels;
  for (std::int64_t group = 0; group < attributes.groups; ++group) {
    const auto begin = plan.order.begin() + group * per_group;
    const auto pattern_of = [&](std::int64_t channel) { return mask.at(channel, 0, 0); };
    if (by_channel && !mixed) {
      std::stable_sort(begin, begin + per_group, [&](std::int64_t a, std::int64_t b) {
        return pattern_of(a) < pattern_of(b);
      });
    }
    for (std::int64_t first = 0; first < per_group;) {
      std::int64_t same = per_group - first;
      if (by_channel && !mixed) {
        const auto differs = std::find_if(begin + first, begin + per_group, [&](std::int64_t c) {
          return pattern_of(c) != pattern_of(begin[first]);
        });
        same = differs - (begin + first);
      }
      const std::int64_t bytes = same * filter_bytes * 2;
      const std::int64_t parts = std::max((bytes + cache_for_weights() - 1) / cache_for_weights(),
                                           (same + kMostChannels - 1) / kMostChannels);
      const std::int64_t even = round_up((same + parts - 1) / parts, width);
      for (std::int64_t end = first + same; first < end;) {
        const std::int64_t count = std::min(even, end - first);
        plan.blocks.push_back({.group = group,
                               .first = group * per_group + first,
                               .count = count,
                               // A panel that is mostly padding costs more than tiles.
                               .panels = panels && !mixed ? (count + width / 4) / width : 0,
                               .panel_at = 0,
                               .mixed = mixed});
        first += count;
      }
    }
  }
}

void pack_filters(const ConvAttributes& attributes, const float* w, const ConvKernels& kernels,
               ConvPlan& plan) {
  const std::int64_t kernel_width = attributes.kernel[1];
  const std::int64_t area = attributes.kernel[0] * kernel_width;
  const std::int64_t taps = plan.segment_length / attributes.inputs;  // of a segment
  const std::int64_t padded = round_up(plan.segment_length, kernels.lanes);
  float* filter = plan.filters.data();
  for (const std::int64_t channel : plan.order) {
    const float* from = w + channel * attributes.inputs * area;
    for (std::int64_t tap = 0; tap < area; ++tap) {
      float* to = filter + tap / taps * padded + tap % taps * attributes.inputs;
      for (std::int64_t i = 0; i < attributes.inputs; ++i) to[i] = from[i * area + tap];
    }
    filter += plan.filter_length;
  }
}

void pack_panels(const ConvKernels& kernels, ConvPlan& plan) {
  const std::int64_t width = kernels.panel_channels;
  const std::int64_t inputs = plan.inputs();
  const std::int64_t padded = plan.filter_length / plan.segments;
  std::int64_t at = 0;
  for (ConvBlock& block : plan.blocks) {
    block.panel_at = at;
    at += block.panels * width * inputs;
  }
  plan.panels = AlignedFloats(static_cast<std::size_t>(at));
  for (const ConvBlock& block : plan.blocks) {
    for (std::int64_t c = 0; c < std::min(block.count, block.panels * width); ++c) {
      const float* filter = plan.filters.data() + (block.first + c) * plan.filter_length;
      float* to = plan.panels.data() + block.panel_at + c / width * width * inputs + c % width;
      for (std::int64_t k = 0; k < inputs; ++k) {
        to[k * width] = filter[k / plan.segment_length * padded + k % plan.segment_length];
      }
    }
  }
}

void sort_mixed(const MaskView& mask, PerAxis mask_patches, ConvPlan& plan) {
  const std::int64_t patches = mask_patches[0] * mask_patches[1];
  plan.sorted.resize(plan.order.size() * static_cast<std::size_t>(patches));
  auto at = plan.sorted.begin();
  for (const ConvBlock& block : plan.blocks) {
    for (std::int64_t patch = 0; patch < patches; ++patch, at += block.count) {
      const auto pattern_of = [&](std::int32_t c) {
        return mask.at(plan.order[static_cast<std::size_t>(block.first + c)],
                       patch / mask_patches[1], patch % mask_patches[1]);
      };
      std::iota(at, at + block.count, 0);
      std::stable_sort(at, at + block.count, [&](std::int32_t a, std::int32_t b) {
        return pattern_of(a) < pattern_of(b);
      });
    }
  }
}

}  // namespace

ConvPlan::ConvPlan(const ConvAttributes& attributes, const float* w, const MaskView& mask,
                   PerAxis mask_patches, const ThresholdView& threshold,
                   const ConvKernels& kernels)
    : order(static_cast<std::size_t>(attributes.outputs)) {
  std::iota(order.begin(), order.end(), 0);
  // Neighbouring taps lie side by side in a channels-last map, so a row of the kernel is one segment.
  const bool whole_rows = attributes.dilation[1] == 1;
  segments = attributes.kernel[0] * (whole_rows ? 1 : attributes.kernel[1]);
  segment_length = attributes.inputs * (whole_rows ? attributes.kernel[1] : 1);
  filter_length = segments * round_up(segment_length, kernels.lanes);
  const std::int64_t filter_bytes = filter_length * static_cast<std::int64_t>(sizeof(float));
  const bool use_panels = filter_bytes * attributes.outputs <= kMostPanelBytes;
  cut_blocks(attributes, mask, filter_bytes, use_panels, kernels, *this);
  most_channels = std::ranges::max(blocks, {}, &ConvBlock::count).count;
  stride = round_up(most_channels, std::max(16, kernels.panel_channels));
  filters = AlignedFloats(static_cast<std::size_t>(filter_length * attributes.outputs + kConvSlack));
  pack_filters(attributes, w, kernels, *this);
  pack_panels(kernels, *this);
  thresholds = AlignedFloats(static_cast<std::size_t>(attributes.outputs + kConvSlack));
  for (std::size_t i = 0; i < order.size() && threshold.given(); ++i) {
    thresholds.data()[i] = threshold.at(order[i]);
  }
  if (blocks.front().mixed) sort_mixed(mask, mask_patches, *this);
}

}  // namespace spatialonnx

// SpatialConv on a device, in two launches that compute and what lies between them.
//
// A pair is one patch of one output channel of one image; pairs are numbered as Y lies in memory:
// image, channel, patch. `probes` computes every pair's probes and notes what they say; the pairs
// that have something left to compute are then listed, densely and in order, by a prefix sum over
// tiles of pairs (`scan`, `list`); `others` computes the rest of the listed pairs, so that its
// threads are busy whatever the share of pairs that fired. Nothing comes back to the host: `others`
// is launched for as many pairs as there may be, and reads how many there are.
#pragma once

#include <cstdint>

#include "cuda/block_sums.h"
#include "core/mask_view.h"
#include "core/patch_index.h"

namespace spatialonnx {

// What is known of a pair once its probes are computed.
enum PairState : std::uint8_t {
  kFinished = 0,   // every position is written and was computed
  kPending = 1,    // a probe fired: the others have to be computed
  kPredicted = 2,  // no probe fired: the others are written, as zeros
};

struct ConvArguments {
  DeviceMap out;
  MaskView mask;
  std::int64_t groups;
  std::int64_t inputs;  // channels of X in one group
  // Height first, then width.
  std::int64_t input[2];
  std::int64_t kernel[2];
  std::int64_t stride[2];
  std::int64_t dilation[2];
  std::int64_t pad[2];  // zeros before the first row, the first column
  float clip_max;
  const float* x;
  const float* w;
  const float* bias;      // null: none
  const float* residual;  // null: none
  float* y;
  std::int64_t* skipped;  // [N, C]; null where nobody asks
  std::int64_t* macs;     // [N, C]; null where nobody asks
  // Scratch.
  std::uint8_t* states;      // [pairs]
  std::int64_t* tile_begin;  // [tiles + 1]: pending pairs of a tile, then of those before it
  std::int64_t* pending;     // [pairs]: those that are pending, in order

  SPATIALONNX_BOTH std::int64_t pairs() const { return out.planes() * out.patches(); }
};

// Pairs of a tile: one for each thread of a block.
inline constexpr unsigned kTile = 128;

SPATIALONNX_BOTH inline std::int64_t tiles_of(const ConvArguments& a) {
  return (a.pairs() + kTile - 1) / kTile;
}

// A pair, taken apart.
struct PairAt {
  std::int64_t image;
  std::int64_t channel;
  PatchAt patch;
  unsigned inside;
  unsigned pattern;

  // The positions that are computed whatever happens: a blind patch's are all of them.
  SPATIALONNX_BOTH unsigned probes() const {
    return (pattern & inside) != 0 ? pattern & inside : inside;
  }
  SPATIALONNX_BOTH unsigned others() const { return inside & ~probes(); }
};

SPATIALONNX_BOTH inline PairAt pair_at(const ConvArguments& a, std::int64_t pair) {
  const std::int64_t plane = pair / a.out.patches();
  const PatchAt patch = patch_at(a.out, pair % a.out.patches());
  const std::int64_t channel = plane % a.out.channels;
  return {plane / a.out.channels, channel, patch, inside_bits(a.out, patch),
          a.mask.at(channel, patch.row, patch.column)};
}

// conv + B + residual of one output.
SPATIALONNX_BOTH inline float pre_activation(const ConvArguments& a, const PairAt& at,
                                             std::int64_t position) {
  const std::int64_t row = position / a.out.width * a.stride[0] - a.pad[0];
  const std::int64_t column = position % a.out.width * a.stride[1] - a.pad[1];
  const std::int64_t group = at.channel / (a.out.channels / a.groups);
  const float* x = a.x + (at.image * a.groups + group) * a.inputs * a.input[0] * a.input[1];
  const float* w = a.w + at.channel * a.inputs * a.kernel[0] * a.kernel[1];
  float sum = 0;
  for (std::int64_t i = 0; i < a.inputs; ++i, x += a.input[0] * a.input[1]) {
    for (std::int64_t ky = 0; ky < a.kernel[0]; ++ky) {
      const std::int64_t y = row + ky * a.dilation[0];
      for (std::int64_t kx = 0; kx < a.kernel[1]; ++kx, ++w) {
        const std::int64_t at_x = column + kx * a.dilation[1];
        if (y < 0 || y >= a.input[0] || at_x < 0 || at_x >= a.input[1]) continue;
        sum += x[y * a.input[1] + at_x] * *w;
      }
    }
  }
  if (a.bias != nullptr) sum += a.bias[at.channel];
  return sum;
}

// Computes the positions in `bits`; returns whether one of them is not zero after the ReLU. NaN
// fires and stays NaN.
SPATIALONNX_BOTH inline bool compute_positions(const ConvArguments& a, const PairAt& at,
                                               unsigned bits) {
  const std::int64_t plane = (at.image * a.out.channels + at.channel) * a.out.map_size();
  bool fired = false;
  for (int bit = 0; bits >> bit != 0; ++bit) {
    if ((bits >> bit & 1) == 0) continue;
    const std::int64_t position = position_of(a.out, at.patch, bit);
    float sum = pre_activation(a, at, position);
    if (a.residual != nullptr) sum += a.residual[plane + position];
    const bool zero = sum <= 0;
    a.y[plane + position] = zero ? 0.0f : sum > a.clip_max ? a.clip_max : sum;
    fired |= !zero;
  }
  return fired;
}

SPATIALONNX_BOTH inline PairState probe_pair(const ConvArguments& a, std::int64_t pair) {
  const PairAt at = pair_at(a, pair);
  const bool fired = compute_positions(a, at, at.probes());
  if (at.others() == 0) return kFinished;
  if (fired) return kPending;
  const std::int64_t plane = (at.image * a.out.channels + at.channel) * a.out.map_size();
  for (int bit = 0; at.others() >> bit != 0; ++bit) {
    if ((at.others() >> bit & 1) != 0) a.y[plane + position_of(a.out, at.patch, bit)] = 0.0f;
  }
  return kPredicted;
}

// First launch: a block per tile, a thread per pair.
struct ConvProbesKernel {
  static constexpr const char* kName = "conv_probes";
  static constexpr unsigned kThreads = kTile;
  using Arguments = ConvArguments;
  struct Shared {
    std::int64_t room[kThreads];
  };

  static std::int64_t blocks(const Arguments& a) { return tiles_of(a); }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared& shared) {
    const std::int64_t tiles = tiles_of(a);
    for (std::int64_t tile = block.block(); tile < tiles; tile += block.blocks()) {
      const std::int64_t pair = tile * kTile + block.thread();
      std::int64_t pending = 0;
      if (pair < a.pairs()) {
        const PairState state = probe_pair(a, pair);
        a.states[pair] = state;
        pending = state == kPending ? 1 : 0;
      }
      const std::int64_t sum = block_sum(block, shared.room, pending);
      if (block.thread() == 0) a.tile_begin[tile] = sum;
    }
  }
};

// The prefix sum over the tiles: one block, which carries its sum from one stretch to the next.
struct ConvScanKernel {
  static constexpr const char* kName = "conv_scan";
  static constexpr unsigned kThreads = 512;
  using Arguments = ConvArguments;
  struct Shared {
    std::int64_t room[kThreads];
  };

  static std::int64_t blocks(const Arguments&) { return 1; }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared& shared) {
    const std::int64_t tiles = tiles_of(a);
    std::int64_t before = 0;
    for (std::int64_t first = 0; first < tiles; first += block.threads()) {
      const std::int64_t tile = first + block.thread();
      const std::int64_t count = tile < tiles ? a.tile_begin[tile] : 0;
      const Prefix prefix = block_prefix(block, shared.room, count);
      if (tile < tiles) a.tile_begin[tile] = before + prefix.before;
      before += prefix.total;
    }
    if (block.thread() == 0) a.tile_begin[tiles] = before;
  }
};

// Writes the list: a block per tile, a thread per pair.
struct ConvListKernel {
  static constexpr const char* kName = "conv_list";
  static constexpr unsigned kThreads = kTile;
  using Arguments = ConvArguments;
  struct Shared {
    std::int64_t room[kThreads];
  };

  static std::int64_t blocks(const Arguments& a) { return tiles_of(a); }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared& shared) {
    const std::int64_t tiles = tiles_of(a);
    for (std::int64_t tile = block.block(); tile < tiles; tile += block.blocks()) {
      const std::int64_t pair = tile * kTile + block.thread();
      const bool pending = pair < a.pairs() && a.states[pair] == kPending;
      const Prefix prefix = block_prefix(block, shared.room, pending ? 1 : 0);
      if (pending) a.pending[a.tile_begin[tile] + prefix.before] = pair;
    }
  }
};

// Second launch: a thread per listed pair.
struct ConvOthersKernel {
  static constexpr const char* kName = "conv_others";
  static constexpr unsigned kThreads = 128;
  using Arguments = ConvArguments;
  struct Shared {};

  // As many as all pairs would take: how many there are is known on the device alone.
  static std::int64_t blocks(const Arguments& a) { return blocks_for(a.pairs(), kThreads); }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared&) {
    const std::int64_t count = a.tile_begin[tiles_of(a)];
    const std::int64_t stride = block.blocks() * block.threads();
    for (std::int64_t i = block.block() * block.threads() + block.thread(); i < count;
         i += stride) {
      const PairAt at = pair_at(a, a.pending[i]);
      compute_positions(a, at, at.others());
    }
  }
};

// The counts, where somebody asks: a block per plane.
struct ConvCountsKernel {
  static constexpr const char* kName = "conv_counts";
  static constexpr unsigned kThreads = 128;
  using Arguments = ConvArguments;
  struct Shared {
    std::int64_t room[kThreads];
  };

  static std::int64_t blocks(const Arguments& a) { return a.out.planes(); }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared& shared) {
    const std::int64_t patches = a.out.patches();
    const std::int64_t macs = a.inputs * a.kernel[0] * a.kernel[1];
    for (std::int64_t plane = block.block(); plane < a.out.planes(); plane += block.blocks()) {
      std::int64_t skipped = 0;
      for (std::int64_t patch = block.thread(); patch < patches; patch += block.threads()) {
        const std::int64_t pair = plane * patches + patch;
        if (a.states[pair] == kPredicted) skipped += count_bits(pair_at(a, pair).others());
      }
      const std::int64_t sum = block_sum(block, shared.room, skipped);
      if (block.thread() != 0) continue;
      if (a.skipped != nullptr) a.skipped[plane] = sum;
      if (a.macs != nullptr) a.macs[plane] = (a.out.map_size() - sum) * macs;
    }
  }
};

// The launches of one run, in order.
template <class Launch>
CudaStatus launch_conv(const Launch& launch, const ConvArguments& arguments) {
  CudaStatus status = launch(ConvProbesKernel{}, arguments);
  if (!status.failed()) status = launch(ConvScanKernel{}, arguments);
  if (!status.failed()) status = launch(ConvListKernel{}, arguments);
  if (!status.failed()) status = launch(ConvOthersKernel{}, arguments);
  const bool counts = arguments.skipped != nullptr || arguments.macs != nullptr;
  if (!status.failed() && counts) status = launch(ConvCountsKernel{}, arguments);
  return status;
}

}  // namespace spatialonnx

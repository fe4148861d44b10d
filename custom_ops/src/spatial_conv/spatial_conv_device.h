// SpatialConv on a device, in two launches that compute and what lies between them.
//
// All patches of Y are numbered as Y lies in memory: image, channel, patch of the plane. `probes`
// computes every patch's probes and notes what they say; the patches that have something left to
// compute are then listed, densely and in order, by a prefix sum over chunks of patches (`scan`,
// `list`); `others` computes the rest of the listed patches, so that its threads are busy whatever
// the share of patches that fired. Nothing comes back to the host: `others` is launched for as many
// patches as there may be, and reads how many there are.
#pragma once

#include <cstdint>

#include "core/mask_view.h"
#include "core/patch_index.h"
#include "core/threshold_view.h"
#include "cuda/block_sums.h"

namespace spatialonnx {

// What is known of a patch once its probes are computed.
enum PatchState : std::uint8_t {
  kFinished = 0,   // every position is written and was computed
  kPending = 1,    // a probe fired: the others have to be computed
  kPredicted = 2,  // no probe fired: the others are written, as zeros
};

struct ConvArguments {
  DeviceMap out;
  MaskView mask;
  ThresholdView threshold;
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
  std::uint8_t* states;       // [patches]
  std::int64_t* chunk_begin;  // [chunks + 1]: pending patches of a chunk, then of those before it
  std::int64_t* pending;      // [patches]: those that are pending, in order

  // Of all planes.
  SPATIALONNX_BOTH std::int64_t patches() const { return out.planes() * out.patches(); }
};

// Patches of a chunk: one for each thread of a block.
inline constexpr unsigned kChunk = 128;

SPATIALONNX_BOTH inline std::int64_t chunks_of(const ConvArguments& a) {
  return (a.patches() + kChunk - 1) / kChunk;
}

// A patch, taken apart.
struct ConvPatch {
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

SPATIALONNX_BOTH inline ConvPatch conv_patch(const ConvArguments& a, std::int64_t number) {
  const std::int64_t plane = number / a.out.patches();
  const PatchAt patch = patch_at(a.out, number % a.out.patches());
  const std::int64_t channel = plane % a.out.channels;
  return {plane / a.out.channels, channel, patch, inside_bits(a.out, patch),
          a.mask.at(channel, patch.row, patch.column)};
}

// conv + B + residual of one output.
SPATIALONNX_BOTH inline float pre_activation(const ConvArguments& a, const ConvPatch& at,
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

// Computes the positions in `bits`; returns whether one of them is not at most the channel's
// threshold, or 0. NaN fires and stays NaN.
SPATIALONNX_BOTH inline bool compute_positions(const ConvArguments& a, const ConvPatch& at,
                                               unsigned bits) {
  const std::int64_t plane = (at.image * a.out.channels + at.channel) * a.out.map_size();
  const float threshold = a.threshold.given() ? a.threshold.at(at.channel) : 0.0f;
  bool fired = false;
  for (int bit = 0; bits >> bit != 0; ++bit) {
    if ((bits >> bit & 1) == 0) continue;
    const std::int64_t position = position_of(a.out, at.patch, bit);
    float sum = pre_activation(a, at, position);
    if (a.residual != nullptr) sum += a.residual[plane + position];
    const float y = sum <= 0 ? 0.0f : sum > a.clip_max ? a.clip_max : sum;
    a.y[plane + position] = y;
    fired |= !(y <= threshold);
  }
  return fired;
}

SPATIALONNX_BOTH inline PatchState probe_patch(const ConvArguments& a, std::int64_t patch) {
  const ConvPatch at = conv_patch(a, patch);
  const bool fired = compute_positions(a, at, at.probes());
  if (at.others() == 0) return kFinished;
  if (fired) return kPending;
  const std::int64_t plane = (at.image * a.out.channels + at.channel) * a.out.map_size();
  for (int bit = 0; at.others() >> bit != 0; ++bit) {
    if ((at.others() >> bit & 1) != 0) a.y[plane + position_of(a.out, at.patch, bit)] = 0.0f;
  }
  return kPredicted;
}

// First launch: a block per chunk, a thread per patch.
struct ConvProbesKernel {
  static constexpr const char* kName = "conv_probes";
  static constexpr unsigned kThreads = kChunk;
  using Arguments = ConvArguments;
  struct Shared {
    std::int64_t room[kThreads];
  };

  static std::int64_t blocks(const Arguments& a) { return chunks_of(a); }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared& shared) {
    const std::int64_t chunks = chunks_of(a);
    for (std::int64_t chunk = block.block(); chunk < chunks; chunk += block.blocks()) {
      const std::int64_t patch = chunk * kChunk + block.thread();
      std::int64_t pending = 0;
      if (patch < a.patches()) {
        const PatchState state = probe_patch(a, patch);
        a.states[patch] = state;
        pending = state == kPending ? 1 : 0;
      }
      const std::int64_t sum = block_sum(block, shared.room, pending);
      if (block.thread() == 0) a.chunk_begin[chunk] = sum;
    }
  }
};

// The prefix sum over the chunks: one block, which carries its sum from one stretch to the next.
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
    const std::int64_t chunks = chunks_of(a);
    std::int64_t before = 0;
    for (std::int64_t first = 0; first < chunks; first += block.threads()) {
      const std::int64_t chunk = first + block.thread();
      const std::int64_t count = chunk < chunks ? a.chunk_begin[chunk] : 0;
      const Prefix prefix = block_prefix(block, shared.room, count);
      if (chunk < chunks) a.chunk_begin[chunk] = before + prefix.before;
      before += prefix.total;
    }
    if (block.thread() == 0) a.chunk_begin[chunks] = before;
  }
};

// Writes the list: a block per chunk, a thread per patch.
struct ConvListKernel {
  static constexpr const char* kName = "conv_list";
  static constexpr unsigned kThreads = kChunk;
  using Arguments = ConvArguments;
  struct Shared {
    std::int64_t room[kThreads];
  };

  static std::int64_t blocks(const Arguments& a) { return chunks_of(a); }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared& shared) {
    const std::int64_t chunks = chunks_of(a);
    for (std::int64_t chunk = block.block(); chunk < chunks; chunk += block.blocks()) {
      const std::int64_t patch = chunk * kChunk + block.thread();
      const bool pending = patch < a.patches() && a.states[patch] == kPending;
      const Prefix prefix = block_prefix(block, shared.room, pending ? 1 : 0);
      if (pending) a.pending[a.chunk_begin[chunk] + prefix.before] = patch;
    }
  }
};

// Second launch: a thread per listed patch.
struct ConvOthersKernel {
  static constexpr const char* kName = "conv_others";
  static constexpr unsigned kThreads = 128;
  using Arguments = ConvArguments;
  struct Shared {};

  // As many as all patches would take: how many there are is known on the device alone.
  static std::int64_t blocks(const Arguments& a) { return blocks_for(a.patches(), kThreads); }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared&) {
    const std::int64_t count = a.chunk_begin[chunks_of(a)];
    const std::int64_t stride = block.blocks() * block.threads();
    for (std::int64_t i = block.block() * block.threads() + block.thread(); i < count;
         i += stride) {
      const ConvPatch at = conv_patch(a, a.pending[i]);
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
      const std::int64_t end = (plane + 1) * patches;
      for (std::int64_t patch = plane * patches + block.thread(); patch < end;
           patch += block.threads()) {
        if (a.states[patch] == kPredicted) skipped += count_bits(conv_patch(a, patch).others());
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

// SpatialPredict on a device: one block per plane, so that its counts are one sum and the same on
// every run; one thread per patch.
#pragma once

#include <cstdint>

#include "core/mask_view.h"
#include "core/patch_index.h"
#include "core/threshold_view.h"
#include "cuda/block_sums.h"

namespace spatialonnx {

// All maps of one run. y may be x: a patch is read and written by one thread.
template <class T>
struct PredictArguments {
  DeviceMap map;
  MaskView mask;
  ThresholdView threshold;
  const T* x;
  T* y;
  std::int64_t* skipped;     // [N, C]; null where nobody asks
  std::int64_t* false_zero;  // [N, C]; null where nobody asks
};

template <class T>
struct PredictKernel {
  static constexpr const char* kName = "predict";
  static constexpr unsigned kThreads = 128;
  using Arguments = PredictArguments<T>;
  struct Shared {
    std::int64_t room[kThreads];
  };

  static std::int64_t blocks(const Arguments& a) { return a.map.planes(); }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared& shared) {
    for (std::int64_t plane = block.block(); plane < a.map.planes(); plane += block.blocks()) {
      const T* x = a.x + plane * a.map.map_size();
      T* y = a.y + plane * a.map.map_size();
      const std::int64_t channel = plane % a.map.channels;
      std::int64_t skipped = 0;
      std::int64_t false_zero = 0;
      for (std::int64_t patch = block.thread(); patch < a.map.patches(); patch += block.threads()) {
        const PatchAt at = patch_at(a.map, patch);
        const unsigned inside = inside_bits(a.map, at);
        const unsigned zeros = zero_bits(a.map, at, inside, x);
        const unsigned quiet = quiet_bits(a.map, at, inside, x, a.threshold, channel);
        const unsigned pattern = a.mask.at(channel, at.row, at.column);
        const unsigned predicted = predicted_bits(pattern, inside, quiet);
        for (int bit = 0; inside >> bit != 0; ++bit) {
          if ((inside >> bit & 1) == 0) continue;
          const std::int64_t position = position_of(a.map, at, bit);
          y[position] = (predicted >> bit & 1) != 0 ? T{} : x[position];
        }
        skipped += count_bits(predicted);
        false_zero += count_bits(predicted & ~zeros);
      }
      if (a.skipped != nullptr) {
        const std::int64_t sum = block_sum(block, shared.room, skipped);
        if (block.thread() == 0) a.skipped[plane] = sum;
      }
      if (a.false_zero != nullptr) {
        const std::int64_t sum = block_sum(block, shared.room, false_zero);
        if (block.thread() == 0) a.false_zero[plane] = sum;
      }
    }
  }
};

// The launches of one run.
template <class T, class Launch>
CudaStatus launch_predict(const Launch& launch, const PredictArguments<T>& arguments) {
  return launch(PredictKernel<T>{}, arguments);
}

}  // namespace spatialonnx

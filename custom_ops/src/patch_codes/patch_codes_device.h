// PatchCodes on a device: one thread per patch.
#pragma once

#include <cstdint>

#include "core/patch_index.h"
#include "core/threshold_view.h"

namespace spatialonnx {

struct CodesArguments {
  DeviceMap map;
  ThresholdView threshold;
  const float* x;
  std::uint16_t* codes;  // [N, C, nH, nW]
};

struct CodesKernel {
  static constexpr const char* kName = "codes";
  static constexpr unsigned kThreads = 128;
  using Arguments = CodesArguments;
  struct Shared {};

  static std::int64_t blocks(const Arguments& a) {
    return blocks_for(a.map.planes() * a.map.patches(), kThreads);
  }

  template <class Block>
  SPATIALONNX_KERNEL static void run(const Block& block, const Arguments& a, Shared&) {
    const std::int64_t patches = a.map.patches();
    const std::int64_t count = a.map.planes() * patches;
    const std::int64_t stride = block.blocks() * block.threads();
    for (std::int64_t i = block.block() * block.threads() + block.thread(); i < count;
         i += stride) {
      const std::int64_t plane = i / patches;
      const float* x = a.x + plane * a.map.map_size();
      const PatchAt at = patch_at(a.map, i % patches);
      const unsigned code = quiet_bits(a.map, at, inside_bits(a.map, at), x, a.threshold,
                                       plane % a.map.channels);
      a.codes[i] = static_cast<std::uint16_t>(code);
    }
  }
};

template <class Launch>
CudaStatus launch_codes(const Launch& launch, const CodesArguments& arguments) {
  return launch(CodesKernel{}, arguments);
}

}  // namespace spatialonnx

// The kernels of SpatialPredict: the prediction rule on maps that are already computed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/isa.h"
#include "core/patch_grid.h"
#include "spatial_predict/mask_bits.h"

namespace spatialonnx {

// All maps of one run. y may be x: every patch is read before it is written.
template <class T>
struct PredictTask {
  PatchGrid grid;
  MaskView mask;
  MaskBits bits;
  const T* x;
  T* y;
  T zero;           // what a zero is: 0, or the zero point of an 8-bit map
  const T* limits;  // a probe fires above its channel's limit; null: it fires where it is not zero
  std::int64_t limit_stride;  // 0 where all channels share one limit, else 1
  std::int64_t* skipped;     // per plane; null where nobody asks
  std::int64_t* false_zero;  // per plane; null where nobody asks
  bool stream;               // whether y is too large to stay in a cache until it is read
};

// Planes [first, last): maps of one channel of one sample, of which there are N * C.
template <class T>
using PredictPlanes = void (*)(const PredictTask<T>& task, std::size_t first, std::size_t last);

#define X(isa)                                                                                   \
  namespace isa {                                                                                \
  void predict_planes(const PredictTask<float>& task, std::size_t first, std::size_t last);       \
  void predict_planes(const PredictTask<std::uint8_t>& task, std::size_t first, std::size_t last); \
  void predict_planes(const PredictTask<std::int8_t>& task, std::size_t first, std::size_t last);  \
  }
SPATIALONNX_VECTOR_ISAS(X)
X(reference)
#undef X

}  // namespace spatialonnx

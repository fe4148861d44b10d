// The kernels of PatchCodes: which values of every patch are zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/isa.h"
#include "core/patch_grid.h"

namespace spatialonnx {

template <class T>
struct CodesTask {
  PatchGrid grid;
  const T* x;
  T zero;                     // what a zero is: 0, or the zero point of an 8-bit map
  const T* limits;            // per channel, what counts as zero at most; null: zeros alone
  std::int64_t limit_stride;  // 0 where all channels share one limit, else 1
  std::uint16_t* codes;       // [N, C, nH, nW]
};

// Planes [first, last) of the N * C.
template <class T>
using CodePlanes = void (*)(const CodesTask<T>& task, std::size_t first, std::size_t last);

#define X(isa)                                                                                 \
  namespace isa {                                                                              \
  void code_planes(const CodesTask<float>& task, std::size_t first, std::size_t last);          \
  void code_planes(const CodesTask<std::uint8_t>& task, std::size_t first, std::size_t last);   \
  void code_planes(const CodesTask<std::int8_t>& task, std::size_t first, std::size_t last);    \
  }
SPATIALONNX_VECTOR_ISAS(X)
X(reference)
#undef X

}  // namespace spatialonnx

// The kernels of PatchCodes: which values of every patch are zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/isa.h"
#include "core/patch_grid.h"

namespace spatialonnx {

struct CodesTask {
  PatchGrid grid;
  const float* x;
  std::uint16_t* codes;  // [N, C, nH, nW]
};

// Planes [first, last) of the N * C.
using CodePlanes = void (*)(const CodesTask& task, std::size_t first, std::size_t last);

#define X(isa)                                                                \
  namespace isa {                                                             \
  void code_planes(const CodesTask& task, std::size_t first, std::size_t last); \
  }
SPATIALONNX_VECTOR_ISAS(X)
X(reference)
#undef X

}  // namespace spatialonnx

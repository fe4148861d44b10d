// SnaPEA's sums of one kernel, vectorised over the positions of a tile.
// Compiled once per instruction set (isa.h), without fused multiply-adds: a sum, and so the MAC at
// which it is left, is the same to the last bit on every instruction set, and in the reference.
#include "snapea_conv/snapea_conv.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if !defined(SPATIALONNX_LANES)
#if defined(__AVX512F__)
#define SPATIALONNX_LANES 16
#elif defined(__AVX__)
#define SPATIALONNX_LANES 8
#else
#define SPATIALONNX_LANES 4
#endif
#endif

#define UNROLL _Pragma("GCC unroll 8")
#define INLINE inline __attribute__((always_inline))

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

using std::int64_t;

constexpr int kLanes = SPATIALONNX_LANES;
constexpr int kVectors = kSnapeaTile / kLanes;
// How many MACs pass between two looks whether any sum is left: a look costs about one MAC.
constexpr int64_t kLook = 4;

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int IntVector __attribute__((vector_size(kLanes * 4)));
typedef Vector Unaligned __attribute__((aligned(4), may_alias));
typedef IntVector UnalignedInt __attribute__((aligned(4), may_alias));

INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }

struct Sums {
  Vector sum[kVectors];

  // The MAC of one tap.
  INLINE void add(const SnapeaTile& tile, int64_t i) {
    const float* column = tile.columns + tile.order[i] * int64_t{kSnapeaTile};
    const Vector weight = tile.weights[i] - Vector{};
    UNROLL for (int v = 0; v < kVectors; ++v) sum[v] += weight * load(column + v * kLanes);
  }
};

// Whether every lane of every vector is set (-1).
INLINE bool all(const IntVector* set) {
  IntVector both = set[0];
  UNROLL for (int v = 1; v < kVectors; ++v) both &= set[v];
#if SPATIALONNX_LANES == 8 && defined(__AVX2__)
  return _mm256_movemask_epi8(reinterpret_cast<__m256i>(both)) == -1;
#elif SPATIALONNX_LANES == 4 && defined(__SSE2__)
  return _mm_movemask_epi8(reinterpret_cast<__m128i>(both)) == 0xFFFF;
#else
  int lanes = -1;
  UNROLL for (int i = 0; i < kLanes; ++i) lanes &= both[i];
  return lanes == -1;
#endif
}

}  // namespace

void snapea_tile(const SnapeaTile& tile) {
  Sums sums;
  IntVector stopped[kVectors];
  IntVector count[kVectors];
  UNROLL for (int v = 0; v < kVectors; ++v) sums.sum[v] = load(tile.start + v * kLanes);
  int64_t i = 0;
  for (; i < tile.head; ++i) sums.add(tile, i);
  const auto head = static_cast<int>(tile.head);
  const int behind = static_cast<int>(tile.unchecked) - head;
  UNROLL for (int v = 0; v < kVectors; ++v) {
    stopped[v] = head > 0 ? sums.sum[v] <= tile.threshold - Vector{} : IntVector{};
    count[v] = (~stopped[v] & behind) + head;
  }
  if (head == 0 || !all(stopped)) {
    for (; i < tile.unchecked; ++i) sums.add(tile, i);
    for (; i < tile.taps; ++i) {
      UNROLL for (int v = 0; v < kVectors; ++v) stopped[v] |= sums.sum[v] <= Vector{};
      if (i % kLook == 0 && all(stopped)) break;
      UNROLL for (int v = 0; v < kVectors; ++v) count[v] += stopped[v] + 1;
      sums.add(tile, i);
    }
  }
  UNROLL for (int v = 0; v < kVectors; ++v) {
    const Vector sum = sums.sum[v];
    const Vector clip = tile.clip_max - Vector{};
    const Vector y = sum > clip ? clip : sum;
    const IntVector zero = stopped[v] | (sum <= Vector{});
    *reinterpret_cast<Unaligned*>(tile.y + v * kLanes) = zero ? Vector{} : y;
    *reinterpret_cast<UnalignedInt*>(tile.macs + v * kLanes) = count[v];
  }
}

}  // namespace spatialonnx::SPATIALONNX_ISA

// The vector kernels of SpatialConv, over the compiler's vector extensions. Compiled once per
// instruction set (isa.h); SPATIALONNX_LANES, where given, sets the floats of a vector, so that the
// source for 512-bit vectors can be tested on a processor without them.
#include "spatial_conv/kernels.h"

#include <string.h>

#if defined(__AVX2__)
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

// Makes the compiler load a vector once. GCC otherwise folds the load into every FMA that uses it,
// which makes a tile bound by loads.
#if defined(__x86_64__) && \
    (SPATIALONNX_LANES == 4 || (SPATIALONNX_LANES == 8 && defined(__AVX__)) || defined(__AVX512F__))
#define KEEP(vector) asm("" : "+v"(vector))
#else
#define KEEP(vector) (void)(vector)
#endif

#define UNROLL _Pragma("GCC unroll 32")
#define INLINE inline __attribute__((always_inline))

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

using std::int64_t;

constexpr int kLanes = SPATIALONNX_LANES;
// Registers: 32 with the shapes made for AVX-512, 16 elsewhere.
constexpr bool kManyRegisters = kLanes == 16;

typedef float Vector __attribute__((vector_size(kLanes * 4)));
typedef int IntVector __attribute__((vector_size(kLanes * 4)));
typedef float Vector4 __attribute__((vector_size(16)));
typedef float Vector8 __attribute__((vector_size(32)));
typedef int Int8 __attribute__((vector_size(32)));
typedef Vector Unaligned __attribute__((aligned(4), may_alias));
typedef Vector4 Unaligned4 __attribute__((aligned(4), may_alias));
typedef Vector8 Unaligned8 __attribute__((aligned(4), may_alias));

INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
INLINE void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
INLINE Vector8 load8(const float* p) { return *reinterpret_cast<const Unaligned8*>(p); }
INLINE void store8(float* p, Vector8 v) { *reinterpret_cast<Unaligned8*>(p) = v; }
INLINE void store4(float* p, Vector4 v) { *reinterpret_cast<Unaligned4*>(p) = v; }

// x - 0 is x for every x, so that this is a broadcast and nothing else.
INLINE Vector broadcast(float x) { return x - Vector{}; }
INLINE Vector8 broadcast8(float x) { return x - Vector8{}; }

template <class V>
INLINE V activate(V v, V clip_max) {
  const V zero{};
  v = v <= zero ? zero : v;
  return v > clip_max ? clip_max : v;
}

// Shuffles within every four lanes; 0..3 are a's, 4..7 are b's.
#define PICK(lanes, z, i) ((i) < 4 ? (i) + (z) : (i) - 4 + (lanes) + (z))
#define PICK4(n, z, i, j, k, l) PICK(n, z, i), PICK(n, z, j), PICK(n, z, k), PICK(n, z, l)
#define SHUFFLE_OF_8(a, b, ...) \
  __builtin_shufflevector(a, b, PICK4(8, 0, __VA_ARGS__), PICK4(8, 4, __VA_ARGS__))
#if SPATIALONNX_LANES == 4
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, PICK4(4, 0, __VA_ARGS__))
#elif SPATIALONNX_LANES == 8
#define SHUFFLE(a, b, ...) SHUFFLE_OF_8(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...)                                                               \
  __builtin_shufflevector(a, b, PICK4(16, 0, __VA_ARGS__), PICK4(16, 4, __VA_ARGS__),    \
                          PICK4(16, 8, __VA_ARGS__), PICK4(16, 12, __VA_ARGS__))
#endif

// Asks for a line of weights that come later, for the second-level cache. It need not exist.
INLINE void fetch_line(std::uintptr_t address) {
  __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
}

// A distance in floats as one of addresses, which may be negative and then wraps around.
INLINE std::uintptr_t bytes_of(int64_t floats) {
  return static_cast<std::uintptr_t>(floats) * sizeof(float);
}

// --- Tiles: filters x positions, vectors along the inputs ----------------------------------------

// The sums over the lanes of four vectors.
INLINE Vector4 sum_lanes(Vector a, Vector b, Vector c, Vector d) {
  const Vector ab = SHUFFLE(a, b, 0, 4, 1, 5) + SHUFFLE(a, b, 2, 6, 3, 7);
  const Vector cd = SHUFFLE(c, d, 0, 4, 1, 5) + SHUFFLE(c, d, 2, 6, 3, 7);
  const Vector sum = SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7);
#if SPATIALONNX_LANES == 16
  const Vector8 half = __builtin_shufflevector(sum, sum, 0, 1, 2, 3, 4, 5, 6, 7) +
                       __builtin_shufflevector(sum, sum, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  const Vector half = sum;
#endif
#if SPATIALONNX_LANES >= 8
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) +
         __builtin_shufflevector(half, half, 4, 5, 6, 7);
#else
  return half;
#endif
}

template <int filters>
INLINE void store_sums(float* out, const Vector* sums) {
  UNROLL for (int i = 0; i < filters; i += 4) {
    const Vector none{};
    store4(out + i, sum_lanes(sums[i], i + 1 < filters ? sums[i + 1] : none,
                              i + 2 < filters ? sums[i + 2] : none,
                              i + 3 < filters ? sums[i + 3] : none));
  }
}

// The operand that is fewer, positions or filters, stays in registers while the other one's vectors
// pass.
template <int positions, int filters, bool tail>
INLINE void multiply(const float* const* x, const float* const* w, int64_t at, IntVector valid,
                     Vector (&sums)[positions][filters]) {
  Vector xs[positions];
  if constexpr (positions <= filters) {
    UNROLL for (int j = 0; j < positions; ++j) {
      xs[j] = load(x[j] + at);
      if (tail) xs[j] = (Vector)((IntVector)xs[j] & valid);
      KEEP(xs[j]);
    }
    UNROLL for (int i = 0; i < filters; ++i) {
      Vector filter = load(w[i] + at);
      if (positions > 1) KEEP(filter);
      UNROLL for (int j = 0; j < positions; ++j) sums[j][i] += filter * xs[j];
    }
  } else {
    Vector ws[filters];
    UNROLL for (int i = 0; i < filters; ++i) {
      ws[i] = load(w[i] + at);
      KEEP(ws[i]);
    }
    UNROLL for (int j = 0; j < positions; ++j) {
      Vector input = load(x[j] + at);
      if (tail) input = (Vector)((IntVector)input & valid);
      if (filters > 1) KEEP(input);
      UNROLL for (int i = 0; i < filters; ++i) sums[j][i] += ws[i] * input;
    }
  }
}

// `fetch`: whether lines from `ahead` on are fetched, one for every second vector. More at a time
// would take the buffers that the weights come through. `ahead` is an address, as it may lie behind
// the weights' end.
template <int positions, int filters, bool fetch>
void tile(const ConvSpan& span, const float* const* filter, const float* const* position,
          std::uintptr_t ahead, float* out, int64_t out_stride) {
  Vector sums[positions][filters] = {};
  const int64_t tail = span.length % kLanes;
  const int64_t whole = span.length - tail;
  // The inputs behind a segment belong to other outputs: they may be infinite, so a weight of zero
  // is not enough.
  IntVector valid;
  for (int i = 0; i < kLanes; ++i) valid[i] = i < tail ? -1 : 0;
  const float* w[filters];
  const float* x[positions];
  UNROLL for (int i = 0; i < filters; ++i) w[i] = filter[i] + whole;
  UNROLL for (int j = 0; j < positions; ++j) x[j] = position[j] + whole;
  const int64_t filter_step = whole + (tail != 0 ? kLanes : 0);
  for (int64_t s = 0;;) {
    if (fetch) ahead += bytes_of(whole / 2);
    for (int64_t at = -whole; at != 0; at += kLanes) {
      if (fetch) fetch_line(ahead + bytes_of(at >> 1));
      multiply<positions, filters, false>(x, w, at, valid, sums);
    }
    if (tail != 0) multiply<positions, filters, true>(x, w, 0, valid, sums);
    if (++s == span.segments) break;
    const int64_t step = span.step[s - 1];
    UNROLL for (int i = 0; i < filters; ++i) w[i] += filter_step;
    UNROLL for (int j = 0; j < positions; ++j) x[j] += step;
  }
  UNROLL for (int j = 0; j < positions; ++j) store_sums<filters>(out + j * out_stride, sums[j]);
}

// --- Panels: positions x channels, vectors along the channels ------------------------------------

constexpr int kPanelVectors = 2;
constexpr int kPanelChannels = kPanelVectors * kLanes;
constexpr int kPanelPositions = kManyRegisters ? kMostPanelPositions : 6;

template <int positions, bool fetch>
void panel(const ConvSpan& span, const float* weights, const float* const* position,
           std::uintptr_t ahead, const ConvFinish& finish, float* const* out) {
  Vector sums[positions][kPanelVectors];
  const float* x[positions];
  UNROLL for (int j = 0; j < positions; ++j) {
    x[j] = position[j] + span.length;
    UNROLL for (int v = 0; v < kPanelVectors; ++v) sums[j][v] = load(finish.bias + v * kLanes);
  }
  for (int64_t s = 0;;) {
    for (int64_t at = -span.length; at != 0; ++at, weights += kPanelChannels) {
      if (fetch) {
        fetch_line(ahead);
        ahead += bytes_of(kConvLine / 2);
      }
      Vector w[kPanelVectors];
      UNROLL for (int v = 0; v < kPanelVectors; ++v) {
        w[v] = load(weights + v * kLanes);
        KEEP(w[v]);
      }
      UNROLL for (int j = 0; j < positions; ++j) {
        Vector input = broadcast(x[j][at]);
        KEEP(input);
        UNROLL for (int v = 0; v < kPanelVectors; ++v) sums[j][v] += w[v] * input;
      }
    }
    if (++s == span.segments) break;
    const int64_t step = span.step[s - 1];
    UNROLL for (int j = 0; j < positions; ++j) x[j] += step;
  }
  const Vector clip_max = broadcast(finish.clip_max);
  UNROLL for (int j = 0; j < positions; ++j) {
    UNROLL for (int v = 0; v < kPanelVectors; ++v) {
      Vector sum = sums[j][v];
      if (finish.residual != nullptr) sum += load(finish.residual[j] + v * kLanes);
      store(out[j] + v * kLanes, activate(sum, clip_max));
    }
  }
}

// --- Eight channels at a time --------------------------------------------------------------------

struct Ranks {
  // By eight bits: for every set bit its rank among the set ones, 128 for the others.
  unsigned char rank[256][8];
  // By eight bits: the numbers of the set bits, in order.
  unsigned char set[256][8];

  constexpr Ranks() : rank(), set() {
    for (int bits = 0; bits < 256; ++bits) {
      int count = 0;
      for (int i = 0; i < 8; ++i) {
        rank[bits][i] = 128;
        if ((bits >> i & 1) == 0) continue;
        rank[bits][i] = static_cast<unsigned char>(count);
        set[bits][count++] = static_cast<unsigned char>(i);
      }
    }
  }
};
constexpr Ranks kRanks;

#if defined(__AVX2__)
INLINE Int8 bytes_to_ints(const unsigned char* bytes) {
  return (Int8)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
}
INLINE unsigned sign_bits(Int8 v) { return static_cast<unsigned>(_mm256_movemask_ps((__m256)v)); }
INLINE Vector8 permute(Vector8 v, Int8 lanes) {
  return (Vector8)_mm256_permutevar8x32_ps((__m256)v, (__m256i)lanes);
}
#else
INLINE Int8 bytes_to_ints(const unsigned char* bytes) {
  Int8 ints;
  UNROLL for (int i = 0; i < 8; ++i) ints[i] = bytes[i];
  return ints;
}
INLINE unsigned sign_bits(Int8 v) {
  unsigned bits = 0;
  UNROLL for (int i = 0; i < 8; ++i) bits |= (v[i] < 0 ? 1u : 0u) << i;
  return bits;
}
INLINE Vector8 permute(Vector8 v, Int8 lanes) {
  Vector8 permuted;
  UNROLL for (int i = 0; i < 8; ++i) permuted[i] = v[lanes[i] & 7];
  return permuted;
}
#endif

void fired(const float* const* positions, int count, int64_t octets, const float* thresholds,
           unsigned char* bits) {
  for (int64_t g = 0; g < octets; ++g) {
    const Vector8 threshold = load8(thresholds + 8 * g);
    Int8 any{};
    // Not "above": NaN fires.
    for (int j = 0; j < count; ++j) any |= ~(load8(positions[j] + 8 * g) <= threshold);
    bits[g] = static_cast<unsigned char>(sign_bits(any));
  }
}

int64_t compress(const unsigned char* bits, int64_t octets, std::int32_t* channels) {
  int64_t count = 0;
  for (int64_t g = 0; g < octets; ++g) {
    const Int8 set = bytes_to_ints(kRanks.set[bits[g]]) + static_cast<int>(8 * g);
    memcpy(channels + count, &set, sizeof set);
    count += __builtin_popcount(bits[g]);
  }
  return count;
}

template <bool keep, bool residual>
void expand_into(const unsigned char* bits, int64_t octets, const float* sums,
                        int64_t sums_stride, int positions, const ConvFinish& finish,
                        float* const* out) {
  const Vector8 clip_max = broadcast8(finish.clip_max);
  for (int64_t g = 0; g < octets; ++g) {
    if (bits[g] == 0) {
      for (int j = 0; j < positions && !keep; ++j) store8(out[j] + 8 * g, Vector8{});
      continue;
    }
    const Int8 rank = bytes_to_ints(kRanks.rank[bits[g]]);
    const Int8 set = rank < 128;
    const Vector8 bias = load8(finish.bias + 8 * g);
    for (int j = 0; j < positions; ++j) {
      Vector8 sum = permute(load8(sums + j * sums_stride), rank) + bias;
      if constexpr (residual) sum += load8(finish.residual[j] + 8 * g);
      sum = activate(sum, clip_max);
      if constexpr (keep) {
        sum = set ? sum : load8(out[j] + 8 * g);
      } else {
        sum = (Vector8)((Int8)sum & set);
      }
      store8(out[j] + 8 * g, sum);
    }
    sums += __builtin_popcount(bits[g]);
  }
}

void expand(const unsigned char* bits, int64_t octets, const float* sums, int64_t sums_stride,
            int positions, const ConvFinish& finish, bool keep, float* const* out) {
  const auto into = finish.residual != nullptr
                        ? (keep ? expand_into<true, true> : expand_into<false, true>)
                        : (keep ? expand_into<true, false> : expand_into<false, false>);
  into(bits, octets, sums, sums_stride, positions, finish, out);
}

// --- Layouts -------------------------------------------------------------------------------------

INLINE void transpose(Vector8 (&v)[8]) {
  Vector8 t[8];
  UNROLL for (int i = 0; i < 8; i += 2) {
    t[i] = SHUFFLE_OF_8(v[i], v[i + 1], 0, 4, 1, 5);
    t[i + 1] = SHUFFLE_OF_8(v[i], v[i + 1], 2, 6, 3, 7);
  }
  UNROLL for (int i = 0; i < 8; i += 4) {
    v[i] = SHUFFLE_OF_8(t[i], t[i + 2], 0, 1, 4, 5);
    v[i + 1] = SHUFFLE_OF_8(t[i], t[i + 2], 2, 3, 6, 7);
    v[i + 2] = SHUFFLE_OF_8(t[i + 1], t[i + 3], 0, 1, 4, 5);
    v[i + 3] = SHUFFLE_OF_8(t[i + 1], t[i + 3], 2, 3, 6, 7);
  }
  UNROLL for (int i = 0; i < 4; ++i) {
    t[i] = __builtin_shufflevector(v[i], v[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    t[i + 4] = __builtin_shufflevector(v[i], v[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  UNROLL for (int i = 0; i < 8; ++i) v[i] = t[i];
}

// Asks for a float of a plane that will soon be read; it need not exist.
INLINE void prefetch_near(const float* plane, int64_t at) {
  __builtin_prefetch(
      reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(plane) + bytes_of(at)));
}

void gather(const float* const* planes, int64_t channels, int64_t offset, int count,
            float* const* pixels) {
  int done = 0;
  if (channels >= 8) {
    for (int64_t c = 0;; c = c + 16 <= channels ? c + 8 : channels - 8) {
      for (done = 0; done + 8 <= count; done += 8) {
        Vector8 v[8];
        UNROLL for (int i = 0; i < 8; ++i) {
          v[i] = load8(planes[c + i] + offset + done);
          // As many streams as there are planes: more than a processor follows by itself.
          prefetch_near(planes[c + i], offset + done + 31);
        }
        transpose(v);
        UNROLL for (int i = 0; i < 8; ++i) store8(pixels[done + i] + c, v[i]);
      }
      if (c + 8 == channels) break;
    }
  }
  for (int q = done; q < count; ++q) {
    for (int64_t c = 0; c < channels; ++c) pixels[q][c] = planes[c][offset + q];
  }
}

void scatter(const float* pixels, int64_t stride, int64_t count, float* const* planes,
             int64_t channels, int64_t offset) {
  for (int64_t c = 0; c < channels; c += 8) {
    const int valid = static_cast<int>(channels - c < 8 ? channels - c : 8);
    int64_t q = 0;
    while (q < count && count >= 8) {
      Vector8 v[8];
      const float* from = pixels + q * stride + c;
      UNROLL for (int i = 0; i < 8; ++i) v[i] = load8(from + i * stride);
      transpose(v);
      if (valid == 8) {
        UNROLL for (int i = 0; i < 8; ++i) store8(planes[c + i] + offset + q, v[i]);
      } else {
        for (int i = 0; i < valid; ++i) store8(planes[c + i] + offset + q, v[i]);
      }
      // The last eight overlap those before them where the count is not a multiple of eight.
      q = q + 16 <= count || q + 8 == count ? q + 8 : count - 8;
    }
    for (; q < count; ++q) {
      for (int i = 0; i < valid; ++i) planes[c + i][offset + q] = pixels[q * stride + c + i];
    }
  }
}

// --- The table -----------------------------------------------------------------------------------

template <int positions, int filters>
constexpr void add_tiles(ConvKernels& kernels) {
  kernels.tile[positions][filters] = {tile<positions, filters, false>,
                                      tile<positions, filters, true>};
  if constexpr (filters > 1) add_tiles<positions, filters - 1>(kernels);
}

// The most filters of a tile, by its positions (0 is none). A tile keeps in registers
//
//     positions * filters    sums, one vector each
//     min(positions, filters) vectors of the operand that is fewer
//     1                      vector of the other one, which passes
//
// and may use 32 of them (AVX-512) or 16: 4 x 6 sums + 4 + 1 = 29, 4 x 3 + 3 + 1 = 16. Beyond that
// the compiler would store sums in memory. Each filter and each position also takes a pointer, of
// 16 general registers: 2 x 10 rather than 2 x 14. Every vector that passes is used once per vector
// that stays, so the larger the tile, the fewer loads there are for each multiplication; a tile of
// one or two positions is bound by its loads. One position takes 8 filters, which is as many sums
// as fused multiply-adds are under way at a time.
constexpr int kTileFilters[kMostTilePositions + 1] = {
    0, 8, kManyRegisters ? 10 : 6, kManyRegisters ? 8 : 4, kManyRegisters ? 6 : 3,
    kManyRegisters ? 4 : 2, kManyRegisters ? 4 : 2, kManyRegisters ? 3 : 1,
    kManyRegisters ? 3 : 1};

template <int positions>
constexpr void add_all_tiles(ConvKernels& kernels) {
  kernels.tile_filters[positions] = kTileFilters[positions];
  add_tiles<positions, kTileFilters[positions]>(kernels);
  if constexpr (positions > 1) add_all_tiles<positions - 1>(kernels);
}

template <int positions>
constexpr void add_panels(ConvKernels& kernels) {
  kernels.panel[positions] = {panel<positions, false>, panel<positions, true>};
  if constexpr (positions > 1) add_panels<positions - 1>(kernels);
}

// Cuts a number of positions into tiles: how many the first one takes. The rest is cut again.
//
//     positions    1 .. 8    9        10 .. 12    13 .. 16
//     32 registers  all      5 + 4     6 + rest    8 + rest
//     16 registers  all to 6; of 7 and 8: 4 + rest; of more: 6 + rest
//
// All filters are read once for every tile, so few large tiles are better than many; but a rest of
// one or two positions is bound by its loads (above), so 9 is 5 + 4 rather than 8 + 1, and 12 is
// 6 + 6. A patch of 4 x 4 whose probes are few leaves 13 to 15 others: 8 + 5 .. 8 + 7.
constexpr int first_tile(int positions) {
  if (!kManyRegisters) return positions <= 6 ? positions : positions <= 8 ? 4 : 6;
  if (positions <= 8) return positions;
  return positions == 9 ? 5 : positions <= 12 ? 6 : 8;
}

constexpr ConvKernels make_kernels() {
  ConvKernels kernels{};
  kernels.lanes = kLanes;
  kernels.panel_channels = kPanelChannels;
  kernels.panel_positions = kPanelPositions;
  for (int n = 1; n <= kMostPositions; ++n) {
    kernels.first_tile[n] = static_cast<unsigned char>(first_tile(n));
  }
  add_panels<kPanelPositions>(kernels);
  add_all_tiles<kMostTilePositions>(kernels);
  kernels.fired = fired;
  kernels.compress = compress;
  kernels.expand = expand;
  kernels.gather = gather;
  kernels.scatter = scatter;
  return kernels;
}

}  // namespace

constinit const ConvKernels conv_kernels = make_kernels();

}  // namespace spatialonnx::SPATIALONNX_ISA

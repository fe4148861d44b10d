// The vector kernels of SpatialQConv. Compiled once per instruction set (core/isa.h): what differs
// between those is dot_products.h, and how outputs are finished.
#include "spatial_qconv/kernels.h"

#include "spatial_qconv/dot_products.h"
#if defined(__AVX512VNNI__)
#include "spatial_qconv/finish_avx512.h"
#if defined(__AMX_INT8__)
#include "spatial_qconv/dense_amx.h"
#endif
#else
#include "spatial_qconv/finish_any.h"
#endif

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

using std::int32_t;
using std::int64_t;
using std::int8_t;
using std::uint8_t;

// --- Tiles: rows x positions, vectors along the inputs -------------------------------------------

// The operand that is fewer stays in registers while the other one's vectors pass.
template <int rows, int positions>
INLINE void multiply(const int8_t* const* w, const uint8_t* const* x, int64_t at,
                     Sums (&sums)[positions][rows]) {
  if constexpr (positions <= rows) {
    Inputs inputs[positions];
    UNROLL for (int j = 0; j < positions; ++j) {
      inputs[j] = load_inputs(x[j] + at);
      KEEP(inputs[j]);
    }
    UNROLL for (int i = 0; i < rows; ++i) {
      Weights weights = load_weights(w[i] + at);
      if (positions > 1) KEEP(weights);
      UNROLL for (int j = 0; j < positions; ++j) sums[j][i] = dot(sums[j][i], inputs[j], weights);
    }
  } else {
    Weights weights[rows];
    UNROLL for (int i = 0; i < rows; ++i) {
      weights[i] = load_weights(w[i] + at);
      KEEP(weights[i]);
    }
    UNROLL for (int j = 0; j < positions; ++j) {
      Inputs inputs = load_inputs(x[j] + at);
      if (rows > 1) KEEP(inputs);
      UNROLL for (int i = 0; i < rows; ++i) sums[j][i] = dot(sums[j][i], inputs, weights[i]);
    }
  }
}

template <int rows, int positions>
void tile(const QConvSpan& span, const int8_t* const* rows_in, const uint8_t* const* positions_in,
          int32_t* out, int64_t out_stride) {
  Sums sums[positions][rows] = {};
  const int8_t* w[rows];
  const uint8_t* x[positions];
  UNROLL for (int i = 0; i < rows; ++i) w[i] = rows_in[i];
  UNROLL for (int j = 0; j < positions; ++j) x[j] = positions_in[j];
  const int64_t padded = (span.length + kQConvLine - 1) / kQConvLine * kQConvLine;
  for (int64_t s = 0;;) {
    for (int64_t at = 0; at < span.length; at += kStep) multiply<rows, positions>(w, x, at, sums);
    if (++s == span.segments) break;
    UNROLL for (int i = 0; i < rows; ++i) w[i] += padded;
    UNROLL for (int j = 0; j < positions; ++j) x[j] += span.step[s - 1];
  }
  UNROLL for (int j = 0; j < positions; ++j) {
    UNROLL for (int i = 0; i < rows; i += 4) {
      const Sums none{};
      store4(out + j * out_stride + i,
             sum_lanes(sums[j][i], i + 1 < rows ? sums[j][i + 1 < rows ? i + 1 : i] : none,
                       i + 2 < rows ? sums[j][i + 2 < rows ? i + 2 : i] : none,
                       i + 3 < rows ? sums[j][i + 3 < rows ? i + 3 : i] : none));
    }
  }
}

// --- Panels: positions x panel_channels, vectors along the outputs -------------------------------

#if defined(HAS_PANELS)
template <int positions>
INLINE void multiply_panel(const QConvSpan& span, const int8_t* w,
                           const uint8_t* const* positions_in, Sums (&sums)[positions][2]) {
  // Ends of segments: counting up to 0 leaves all general registers to the positions.
  const uint8_t* x[positions];
  UNROLL for (int j = 0; j < positions; ++j) x[j] = positions_in[j] + span.length;
  for (int64_t s = 0;;) {
    for (int64_t b = -span.length; b < 0; b += 4, w += 8 * kLanes) {
      Weights first = load_weights(w);
      Weights second = load_weights(w + 4 * kLanes);
      KEEP(first);
      KEEP(second);
      UNROLL for (int j = 0; j < positions; ++j) {
        const Inputs inputs = broadcast_inputs(x[j] + b);
        sums[j][0] = dot(sums[j][0], inputs, first);
        sums[j][1] = dot(sums[j][1], inputs, second);
      }
    }
    if (++s == span.segments) break;
    UNROLL for (int j = 0; j < positions; ++j) x[j] += span.step[s - 1];
  }
}

template <int positions>
void panel(const QConvSpan& span, const int8_t* w, const uint8_t* const* positions_in,
           const Requantise& requantise, const QConvOutputs& outputs, int64_t channel, int channels,
           const int64_t* at) {
  Sums sums[positions][2] = {};
  multiply_panel<positions>(span, w, positions_in, sums);
  const Finisher finisher(requantise, outputs);
  const auto first = finisher.lanes(channel, channels);
  UNROLL for (int j = 0; j < positions; ++j) finisher.write(first, at[j], sums[j][0]);
  if (channels <= kLanes) return;
  const auto second = finisher.lanes(channel + kLanes, channels - kLanes);
  UNROLL for (int j = 0; j < positions; ++j) finisher.write(second, at[j], sums[j][1]);
}

template <int positions>
void sum_panel(const QConvSpan& span, const int8_t* w, const uint8_t* const* positions_in,
               int32_t* out, int64_t out_stride) {
  Sums sums[positions][2] = {};
  multiply_panel<positions>(span, w, positions_in, sums);
  UNROLL for (int j = 0; j < positions; ++j) {
    store_sums(out + j * out_stride, sums[j][0]);
    store_sums(out + j * out_stride + kLanes, sums[j][1]);
  }
}

// How many of `count` positions the next piece takes: pieces of about the same size.
int next_positions(int count) {
  if (count <= kPanelPositions) return count;
  return count < 2 * kPanelPositions ? (count + 1) / 2 : kPanelPositions;
}

#define PANEL(kernel, n) (n <= kPanelPositions ? kernel<n <= kPanelPositions ? n : 1> : nullptr)
#define PANELS(kernel)                                                                       \
  {nullptr,           PANEL(kernel, 1), PANEL(kernel, 2),  PANEL(kernel, 3), PANEL(kernel, 4), \
   PANEL(kernel, 5),  PANEL(kernel, 6), PANEL(kernel, 7),  PANEL(kernel, 8), PANEL(kernel, 9), \
   PANEL(kernel, 10), PANEL(kernel, 11), PANEL(kernel, 12)}

void panel_sums(const QConvSpan& span, const QConvPanels& panels, const uint8_t* const* positions,
                int count, int32_t* out, int64_t out_stride) {
  static constexpr decltype(&sum_panel<1>) kPanels[] = PANELS(sum_panel);
  const int8_t* weights = panels.weights;
  for (int64_t c = 0; c < panels.channels; c += 2 * kLanes, weights += panels.panel_bytes) {
    for (int j = 0; j < count;) {
      const int n = next_positions(count - j);
      kPanels[n](span, weights, positions + j, out + j * out_stride + c, out_stride);
      j += n;
    }
  }
}

void dense(const QConvSpan& span, const QConvPanels& panels, const Requantise& requantise,
           const QConvOutputs& outputs, const uint8_t* const* positions, const int64_t* at,
           int count, uint8_t*) {
  static constexpr decltype(&panel<1>) kPanels[] = PANELS(panel);
  const int8_t* weights = panels.weights;
  for (int64_t c = 0; c < panels.channels; c += 2 * kLanes, weights += panels.panel_bytes) {
    const int64_t left = panels.channels - c;
    const int channels = left < 2 * kLanes ? static_cast<int>(left) : 2 * kLanes;
    for (int j = 0; j < count;) {
      const int n = next_positions(count - j);
      kPanels[n](span, weights, positions + j, requantise, outputs, panels.channel + c, channels,
                 at + j);
      j += n;
    }
  }
}
constexpr int kPanelChannels = 2 * kLanes;
constexpr int kPanelInputs = 4;
constexpr int kDensePositions = 4 * kPanelPositions;
constexpr int kScratchPositions = 0;
constexpr bool kDenseIsCheap = false;
#elif defined(HAS_TILES)
constexpr bool kDenseIsCheap = true;
constexpr QConvPanelSums panel_sums = nullptr;
#else
constexpr QConvPanelSums panel_sums = nullptr;
constexpr bool kDenseIsCheap = false;
constexpr int kPanelChannels = 0;
constexpr int kPanelInputs = 4;
constexpr int kDensePositions = 0;
constexpr int kScratchPositions = 0;
constexpr QConvDense dense = nullptr;
#endif

#define TILE(n, rows) (rows <= kTileRows[n] ? tile<rows <= kTileRows[n] ? rows : 1, n> : nullptr)
#define TILES(n)                                                                             \
  {nullptr,    TILE(n, 1), TILE(n, 2), TILE(n, 3),  TILE(n, 4),  TILE(n, 5), TILE(n, 6),     \
   TILE(n, 7), TILE(n, 8), TILE(n, 9), TILE(n, 10), TILE(n, 11), TILE(n, 12)}

}  // namespace

// Without `extern` in front the table would have no name outside this file.
extern const QConvKernels qconv_kernels;
const QConvKernels qconv_kernels = {
    .input_flip = kInputFlip,
    .dense_is_cheap = kDenseIsCheap,
    .panel_channels = kPanelChannels,
    .panel_inputs = kPanelInputs,
    .dense_positions = kDensePositions,
    .scratch_positions = kScratchPositions,
    .dense = dense,
    .panel_sums = panel_sums,
    .tile_rows = {0, kTileRows[1], kTileRows[2], kTileRows[3], kTileRows[4]},
    .tile = {{}, TILES(1), TILES(2), TILES(3), TILES(4)},
    .list_rows = list_rows,
    .fired = fired,
    .finish = finish,
};

}  // namespace spatialonnx::SPATIALONNX_ISA

// Panels by AMX: tiles of 16 positions x 16 channels, 64 inputs at a time.
#pragma once

#include <immintrin.h>

#include "spatial_qconv/finish_avx512.h"
#include "spatial_qconv/kernels.h"

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

constexpr int kTile = 16;               // rows of a tile
constexpr std::int64_t kTileBytes = 1024;
constexpr int kPanelChannels = 2 * kTile;
constexpr int kPanelInputs = 64;
constexpr int kDensePositions = 2 * kTile;  // one pair of tiles: their inputs stay in cache
constexpr int kScratchPositions = kDensePositions;

// As the processor takes it.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The inputs of `count` positions as tiles: [16 positions][chunk of 64 inputs][position][input]. The
// last tile is filled up with its last position.
void pack_tiles(const QConvSpan& span, const std::uint8_t* const* positions, int count,
                std::int64_t chunks, std::uint8_t* tiles) {
  for (int j = 0; j < (count + kTile - 1) / kTile * kTile; ++j) {
    const std::uint8_t* x = positions[j < count ? j : count - 1];
    std::uint8_t* to = tiles + j / kTile * chunks * kTileBytes + j % kTile * 64;
    for (std::int64_t s = 0;;) {
      for (std::int64_t at = 0; at < span.length; at += 64, to += kTileBytes) {
        _mm512_store_si512(to, _mm512_loadu_si512(x + at));
      }
      if (++s == span.segments) break;
      x += span.step[s - 1];
    }
  }
}

// Sums of one or two tiles of positions and 32 channels: sums[position][channel].
template <bool two>
INLINE void multiply_tiles(const std::uint8_t* x, const std::int8_t* w, std::int64_t chunks,
                           std::int32_t* sums) {
  _tile_zero(0);
  _tile_zero(1);
  if (two) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t k = 0; k < chunks; ++k, w += 2 * kTileBytes) {
    _tile_loadd(4, x + k * kTileBytes, 64);
    _tile_loadd(6, w, 128);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, w + 64, 128);
    _tile_dpbusd(1, 4, 7);
    if (two) {
      _tile_loadd(5, x + (chunks + k) * kTileBytes, 64);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  constexpr int kRow = kPanelChannels * 4;
  _tile_stored(0, sums, kRow);
  _tile_stored(1, sums + kTile, kRow);
  if (two) {
    _tile_stored(2, sums + kTile * kPanelChannels, kRow);
    _tile_stored(3, sums + kTile * kPanelChannels + kTile, kRow);
  }
}

INLINE Sums load_sums(const std::int32_t* sums) { return (Sums)_mm512_load_si512(sums); }

void dense(const QConvSpan& span, const QConvPanels& panels, const Requantise& requantise,
           const QConvOutputs& outputs, const std::uint8_t* const* positions,
           const std::int64_t* at, int count, std::uint8_t* scratch) {
  const std::int64_t chunks = span.segments * ((span.length + 63) / 64);
  const TileShapes shapes;
  _tile_loadconfig(&shapes);
  pack_tiles(span, positions, count, chunks, scratch);
  alignas(64) std::int32_t sums[2 * kTile * kPanelChannels];
  const Finisher finisher(requantise, outputs);
  const std::int8_t* weights = panels.weights;
  for (std::int64_t c = 0; c < panels.channels; c += kPanelChannels, weights += panels.panel_bytes) {
    const std::int64_t channel = panels.channel + c;
    const std::int64_t channels = panels.channels - c;
    const auto first = finisher.lanes(channel, channels);
    const auto second = finisher.lanes(channel + kTile, channels > kTile ? channels - kTile : 0);
    for (int j = 0; j < count; j += 2 * kTile) {
      const std::uint8_t* x = scratch + j / kTile * chunks * kTileBytes;
      if (count - j > kTile) {
        multiply_tiles<true>(x, weights, chunks, sums);
      } else {
        multiply_tiles<false>(x, weights, chunks, sums);
      }
      const int n = count - j < 2 * kTile ? count - j : 2 * kTile;
      for (int i = 0; i < n; ++i) {
        finisher.write(first, at[j + i], load_sums(sums + i * kPanelChannels));
      }
      if (channels <= kTile) continue;
      for (int i = 0; i < n; ++i) {
        finisher.write(second, at[j + i], load_sums(sums + i * kPanelChannels + kTile));
      }
    }
  }
  // Threads that leave their tiles empty are cheaper to switch.
  _tile_release();
}

}  // namespace
}  // namespace spatialonnx::SPATIALONNX_ISA

// What AMX would take for blocks of 16 channels that decide together:
//
//   g++ -std=c++20 -O3 -march=sapphirerapids -DSPATIALONNX_ISA=amx -Icustom_ops/src
//       benchmarks/amx_blocks.cc -o build/amx_blocks && build/amx_blocks
//
// A 3 x 3 convolution, one probe per patch of 2 x 2. Which blocks keep which patches is drawn. The
// op library's kernel computes everything by tiles and then sets to zero what is predicted. Here
// that kernel computes the probes alone, and then, block by block, tiles take the positions of those
// patches that the block keeps. They lie anywhere, so every block has to copy their inputs side by
// side, which the library's kernel does once for all channels. Outputs are compared, byte by byte.
// One thread, medians of its processor time, weights in the caches.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <vector>

#include "spatial_qconv/dense_amx.h"

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

using std::int64_t;

constexpr int kPair = 2 * kTile;  // positions that share the weights of a block
constexpr int kRuns = 101;

// Zero-initialised, as the kernels read whole lines.
template <class T>
T* lines(int64_t count) {
  const auto bytes = (static_cast<std::size_t>(count) * sizeof(T) + 127) / 64 * 64;
  return static_cast<T*>(std::memset(std::aligned_alloc(64, bytes), 0, bytes));
}

struct Layer {
  Layer(int64_t channels, int64_t size, double kept)
      : channels(channels),
        size(size),
        x(lines<std::uint8_t>((size + 2) * (size + 2) * channels)),
        w(lines<std::int8_t>(channels * channels * 9)),
        y(lines<std::uint8_t>(size * size * channels)),
        tiles(lines<std::uint8_t>(kPair * channels * 9)),
        constants(lines<std::int32_t>(channels + kRequantiseSlack)),
        scale(static_cast<std::size_t>(channels + kRequantiseSlack), 1e-3f),
        fired(static_cast<std::size_t>(patches() * channels / 64)) {
    std::mt19937 random(1);
    std::generate_n(x, (size + 2) * (size + 2) * channels,
                    [&] { return static_cast<std::uint8_t>(random()); });
    std::generate_n(w, channels * channels * 9, [&] { return static_cast<std::int8_t>(random()); });
    std::fill_n(steps, 3, (size + 2) * channels);
    requantise.scale = scale.data();
    requantise.bias = constants;
    requantise.most = 255;
    requantise.y_max = 255;
    std::bernoulli_distribution keeps(kept);
    for (std::uint64_t& word : fired) {
      for (int block = 0; block < 4; ++block) {
        if (keeps(random)) word |= std::uint64_t{0xffff} << 16 * block;
      }
    }
  }

  int64_t patches() const { return size * size / 4; }
  QConvSpan span() const { return {3, 3 * channels, steps}; }
  QConvPanels panels() const { return {w, channels * 9 * kPanelChannels, 0, channels}; }
  QConvOutputs outputs() const { return {y, nullptr}; }
  // Of place 0 .. 3 of a patch, in a map of so many columns.
  int64_t at(int64_t patch, int place, int64_t columns) const {
    const int64_t row = patch / (size / 2) * 2 + place / 2;
    const int64_t column = patch % (size / 2) * 2 + place % 2;
    return (row * columns + column) * channels;
  }

  const int64_t channels;
  const int64_t size;
  std::uint8_t* const x;  // padded
  std::int8_t* const w;   // panels
  std::uint8_t* const y;
  std::uint8_t* const tiles;
  std::int32_t* const constants;
  std::vector<float> scale;
  std::vector<std::uint64_t> fired;  // [patch][word of 64 channels]
  Requantise requantise{};
  int64_t steps[3];
};

// Positions, up to a pair of tiles.
struct Positions {
  template <class Flush>
  void add(const Layer& layer, int64_t patch, int place, const Flush& flush) {
    x[count] = layer.x + layer.at(patch, place, layer.size + 2);
    at[count++] = layer.at(patch, place, layer.size);
    if (count < kPair) return;
    flush(*this);
    count = 0;
  }

  int count = 0;
  const std::uint8_t* x[kPair];
  int64_t at[kPair];
};

// All channels at the first `places` of every patch, by the library's kernel.
void compute_all(const Layer& layer, int places) {
  const auto flush = [&](const Positions& p) {
    dense(layer.span(), layer.panels(), layer.requantise, layer.outputs(), p.x, p.at, p.count,
          layer.tiles);
  };
  Positions positions;
  for (int64_t patch = 0; patch < layer.patches(); ++patch) {
    for (int place = 0; place < places; ++place) positions.add(layer, patch, place, flush);
  }
  if (positions.count > 0) flush(positions);
}

void clear_predicted(const Layer& layer) {
  const int64_t words = layer.channels / 64;
  for (int64_t patch = 0; patch < layer.patches(); ++patch) {
    int64_t at[3];
    for (int i = 0; i < 3; ++i) at[i] = layer.at(patch, i + 1, layer.size);
    for (int64_t word = 0; word < words; ++word) {
      const std::uint64_t silent = ~layer.fired[static_cast<std::size_t>(patch * words + word)];
      if (silent == 0) continue;
      finish(layer.requantise, layer.outputs(), 64 * word, 0, silent, nullptr, 0, at, 3);
    }
  }
}

// 16 channels. The next inputs are copied while the tiles of these are multiplied.
void compute_block(const Layer& layer, int64_t block, const Positions& p) {
  alignas(64) std::uint8_t copies[2][kPair * 64];
  const int64_t per_segment = 3 * layer.channels / 64;
  const int64_t chunks = 3 * per_segment;
  const bool two = p.count > kTile;
  const auto copy = [&](int64_t k) {
    const int64_t at = k / per_segment * layer.steps[0] + k % per_segment * 64;
    std::uint8_t* to = copies[k % 2];
    for (int i = 0; i < p.count; ++i) {
      _mm512_store_si512(to + 64 * i, _mm512_loadu_si512(p.x[i] + at));
    }
  };
  const std::int8_t* w = layer.w + block / 2 * layer.panels().panel_bytes + block % 2 * 64;
  _tile_zero(0);
  _tile_zero(2);
  copy(0);
  for (int64_t k = 0; k < chunks; ++k, w += 2 * kTileBytes) {
    if (k + 1 < chunks) copy(k + 1);
    _tile_loadd(4, copies[k % 2], 64);
    _tile_loadd(6, w, 128);
    _tile_dpbusd(0, 4, 6);
    if (two) {
      _tile_loadd(5, copies[k % 2] + kTileBytes, 64);
      _tile_dpbusd(2, 5, 6);
    }
  }
  alignas(64) std::int32_t sums[kPair * kTile];
  _tile_stored(0, sums, 64);
  if (two) _tile_stored(2, sums + kTile * kTile, 64);
  const Finisher finisher(layer.requantise, layer.outputs());
  const auto lanes = finisher.lanes(kTile * block, kTile);
  for (int i = 0; i < p.count; ++i) finisher.write(lanes, p.at[i], load_sums(sums + kTile * i));
}

void compute_kept(const Layer& layer) {
  const int64_t words = layer.channels / 64;
  const TileShapes shapes;
  _tile_loadconfig(&shapes);
  for (int64_t block = 0; block < layer.channels / kTile; ++block) {
    const auto flush = [&](const Positions& p) { compute_block(layer, block, p); };
    Positions positions;
    for (int64_t patch = 0; patch < layer.patches(); ++patch) {
      const auto word = layer.fired[static_cast<std::size_t>(patch * words + block / 4)];
      if ((word >> 16 * (block % 4) & 1) == 0) continue;
      for (int place = 1; place < 4; ++place) positions.add(layer, patch, place, flush);
    }
    if (positions.count > 0) flush(positions);
  }
  _tile_release();
}

double now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

// Median, in microseconds; `y` receives the outputs of a run.
template <class Body>
double measure(const Layer& layer, std::vector<std::uint8_t>& y, const Body& body) {
  std::fill_n(layer.y, y.size(), 77);
  double times[kRuns];
  for (double& time : times) {
    const double start = now();
    body();
    time = now() - start;
  }
  std::copy_n(layer.y, y.size(), y.begin());
  std::ranges::nth_element(times, times + kRuns / 2);
  return times[kRuns / 2];
}

void print_row(int channels, int size, double kept) {
  const Layer layer(channels, size, kept);
  std::vector<std::uint8_t> want(static_cast<std::size_t>(size * size * channels));
  std::vector<std::uint8_t> got = want;
  const double all = measure(layer, want, [&] {
    compute_all(layer, 4);
    clear_predicted(layer);
  });
  const double some = measure(layer, got, [&] {
    compute_all(layer, 1);
    clear_predicted(layer);
    compute_kept(layer);
  });
  if (got != want) std::puts("outputs differ");
  std::printf("| %d, %d x %d | %.0f %% | %.0f %% | %.0f | %.0f | %.2f |\n", channels, size, size,
              100 * kept, 75 * (1 - kept), all, some, some / all);
}

}  // namespace
}  // namespace spatialonnx::SPATIALONNX_ISA

int main() {
  constexpr long kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;     // XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequest, kTileData) != 0) {
    std::puts("AMX does not run here");
    return 1;
  }
  std::puts("| channels, map | patches kept | MACs saved | everything, us | blocks, us | ratio |");
  std::puts("|---|---|---|---|---|---|");
  constexpr int kLayers[][2] = {{64, 28}, {128, 14}, {256, 14}, {256, 8}};
  for (const auto& [channels, size] : kLayers) {
    for (const double kept : {0.8, 0.6, 0.4, 0.33, 0.2}) {
      spatialonnx::SPATIALONNX_ISA::print_row(channels, size, kept);
    }
  }
}

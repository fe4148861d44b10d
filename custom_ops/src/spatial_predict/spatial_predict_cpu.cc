// SpatialPredict on bits, one bit per position (mask_bits.h): which positions of a band are not
// zero; the rule, by shifts of whole words; a copy that clears what is predicted.
// Compiled once per instruction set (isa.h).
#include <string.h>

#include "core/position_bits.h"
#include "spatial_predict/spatial_predict.h"

namespace spatialonnx::SPATIALONNX_ISA {
namespace {

struct Counts {
  std::int64_t skipped = 0;
  std::int64_t false_zero = 0;
};

// Bits of one band, with zeros on both sides for what shifts bring in: none is as long as a band.
constexpr std::int64_t kLimitWords = kBandLimit / 64;
constexpr std::int64_t kMargin = kLimitWords + 1;

struct BandBits {
  std::uint64_t words[kMargin + kLimitWords + kMargin];
  std::uint64_t* data() { return words + kMargin; }
  void clear(std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) data()[i] = 0;
  }
};

struct Buffers {
  BandBits fired;
  BandBits rows;
  BandBits corners;
  BandBits spread;
};

// Word i of a bit array moved towards its start or its end by `distance` bits.
inline std::uint64_t moved_down(const std::uint64_t* bits, std::int64_t i, std::int64_t distance) {
  const std::uint64_t* word = bits + i + distance / 64;
  const int shift = static_cast<int>(distance % 64);
  // Two shifts: one by 64 would be undefined.
  return word[0] >> shift | word[1] << 1 << (63 - shift);
}

inline std::uint64_t moved_up(const std::uint64_t* bits, std::int64_t i, std::int64_t distance) {
  const std::uint64_t* word = bits + i - distance / 64;
  const int shift = static_cast<int>(distance % 64);
  return word[0] << shift | word[-1] >> 1 >> (63 - shift);
}

// From the probes that are not zero to the positions of all patches with such a probe: gather them
// in the first column and then the first row of their patch, and spread from there. Positions
// beyond the right border are left out by `columns`; beyond the bottom there are no bits.
template <int p>
inline void spread_over_patches(const MaskBits& mask, std::int64_t width, std::int64_t words,
                                const std::uint64_t* fired, Buffers& buffers) {
  std::uint64_t* rows = buffers.rows.data();
  std::uint64_t* corners = buffers.corners.data();
  std::uint64_t* spread = buffers.spread.data();
  for (std::int64_t i = 0; i < words; ++i) {
    std::uint64_t bits = fired[i];
    for (int c = 1; c < p; ++c) {
      bits |= moved_down(fired, i, c) & mask.columns[c * mask.bands.words + i];
    }
    rows[i] = bits;
  }
  for (std::int64_t i = 0; i < words; ++i) {
    std::uint64_t bits = rows[i];
    for (int r = 1; r < p; ++r) bits |= moved_down(rows, i, r * width);
    corners[i] = bits & mask.corners[i];
  }
  for (std::int64_t i = 0; i < words; ++i) {
    std::uint64_t bits = corners[i];
    for (int r = 1; r < p; ++r) bits |= moved_up(corners, i, r * width);
    rows[i] = bits;
  }
  for (std::int64_t i = 0; i < words; ++i) {
    std::uint64_t bits = rows[i];
    for (int c = 1; c < p; ++c) {
      const std::uint64_t* inside = mask.columns + c * mask.bands.words + i;
      const std::uint64_t carried = i == 0 ? 0 : (rows[i - 1] & inside[-1]) >> (64 - c);
      bits |= (rows[i] & inside[0]) << c | carried;
    }
    spread[i] = bits;
  }
}

// Copies `size` positions, of which `keep` says which are kept; the others become `zero`.
template <class T>
inline void write_band(const T* x, T* y, std::int64_t size, const std::uint64_t* keep, T zero) {
  for (std::int64_t at = 0; at + 64 <= size; at += 64) {
    copy_kept(x + at, y + at, 64, keep[at / 64], zero);
  }
  const std::int64_t whole = size / 64 * 64;
  if (whole < size) {
    copy_kept(x + whole, y + whole, static_cast<int>(size - whole), keep[whole / 64], zero);
  }
}

// The same past the caches, by whole lines.
inline void stream_band(const float* x, float* y, std::int64_t size, const std::uint64_t* keep) {
  std::int64_t at = to_line(y);
  if (at > size) at = size;
  copy_kept(x, y, static_cast<int>(at), keep[0]);
  for (; at + kLine <= size; at += kLine) {
    prefetch_line(x + size + at);  // the next band, while this one is written
    stream_line(x + at, y + at, moved_down(keep, 0, at));
  }
  if (at < size) {
    copy_kept(x + at, y + at, static_cast<int>(size - at), moved_down(keep, 0, at));
  }
}

// 8-bit maps are a quarter as large: they are not streamed.
template <class T>
inline void stream_band(const T*, T*, std::int64_t, const std::uint64_t*) {}

// `size` positions of one band, as one of `bits(x, count)` a word.
template <class T, class Bits>
inline void fill_words(const T* x, std::int64_t size, std::uint64_t* words, Bits bits) {
  const std::int64_t whole = size / 64;
  for (std::int64_t i = 0; i < whole; ++i) words[i] = bits(x + i * 64, 64);
  if (whole * 64 < size) words[whole] = bits(x + whole * 64, static_cast<int>(size - whole * 64));
}

// One band: its patterns, `size` positions of x and y, and the limit of its channel (null: none).
template <int p, bool count, class T>
inline void predict_band(const PredictTask<T>& task, const std::uint64_t* patterns, const T* x,
                          T* y, std::int64_t size, const T* limit, Buffers& buffers,
                          Counts& counts) {
  const MaskBits& mask = task.bits;
  const T zero = task.zero;
  const std::int64_t words = (size + 63) / 64;
  const std::uint64_t* probes = patterns;
  const std::uint64_t* kept = patterns + mask.bands.words;
  std::uint64_t* fired = buffers.fired.data();
  std::uint64_t nonzero[kLimitWords];
  // The last band of a plane may be shorter: nothing of the one before it may be left.
  buffers.fired.clear(words, mask.bands.words);
  buffers.rows.clear(words, mask.bands.words);
  buffers.corners.clear(words, mask.bands.words);
  if (limit != nullptr) {
    const T above = *limit;
    fill_words(x, size, fired, [=](const T* at, int n) { return above_bits(at, n, above); });
    for (std::int64_t i = 0; i < words; ++i) fired[i] &= probes[i];
  }
  if (limit == nullptr || count) {
    fill_words(x, size, nonzero, [=](const T* at, int n) { return different_bits(at, n, zero); });
  }
  if (limit == nullptr) {
    for (std::int64_t i = 0; i < words; ++i) fired[i] = nonzero[i] & probes[i];
  }
  spread_over_patches<p>(mask, task.grid.width, words, fired, buffers);
  std::uint64_t* keep = buffers.spread.data();
  for (std::int64_t i = 0; i < words; ++i) keep[i] |= kept[i];
  task.stream ? stream_band(x, y, size, keep) : write_band(x, y, size, keep, zero);
  if constexpr (count) {
    for (std::int64_t i = 0; i < words; ++i) {
      const std::uint64_t inside = first_bits(size - i * 64);
      const std::uint64_t predicted = ~keep[i] & inside;
      counts.skipped += __builtin_popcountll(predicted);
      counts.false_zero += __builtin_popcountll(predicted & nonzero[i]);
    }
  }
}

template <int p, bool count, class T>
void predict_planes_of(const PredictTask<T>& task, std::size_t first, std::size_t last) {
  const MaskBits& mask = task.bits;
  const std::int64_t size = task.grid.height * task.grid.width;
  Buffers buffers;
  memset(&buffers, 0, sizeof buffers);
  for (std::size_t plane = first; plane < last; ++plane) {
    const auto at = static_cast<std::int64_t>(plane);
    const std::int64_t own = at % task.grid.channels;
    const std::int64_t channel = mask.stored_channels == 1 ? 0 : own;
    const T* limit = task.limits == nullptr ? nullptr : task.limits + own * task.limit_stride;
    const T* x = task.x + at * size;
    T* y = task.y + at * size;
    Counts counts;
    if (mask.active[channel] == 0) {
      if (x != y) memcpy(y, x, static_cast<std::size_t>(size) * sizeof(T));
    } else {
      const std::uint64_t* patterns =
          mask.patterns + channel * mask.bands.count * 2 * mask.bands.words;
      for (std::int64_t start = 0; start < size; start += mask.bands.positions) {
        const std::int64_t rest = size - start;
        predict_band<p, count>(task, patterns, x + start, y + start,
                                rest < mask.bands.positions ? rest : mask.bands.positions, limit,
                                buffers, counts);
        patterns += 2 * mask.bands.words;
      }
    }
    if (task.skipped != nullptr) task.skipped[plane] = counts.skipped;
    if (task.false_zero != nullptr) task.false_zero[plane] = counts.false_zero;
  }
  if (task.stream) end_streaming();
}

template <int p, class T>
void count_or_not(const PredictTask<T>& task, std::size_t first, std::size_t last) {
  const bool count = task.skipped != nullptr || task.false_zero != nullptr;
  count ? predict_planes_of<p, true>(task, first, last)
        : predict_planes_of<p, false>(task, first, last);
}

template <class T>
void predict(const PredictTask<T>& task, std::size_t first, std::size_t last) {
  switch (task.grid.patch_size) {
    case 2: return count_or_not<2>(task, first, last);
    case 3: return count_or_not<3>(task, first, last);
    case 4: return count_or_not<4>(task, first, last);
  }
}

}  // namespace

void predict_planes(const PredictTask<float>& task, std::size_t first, std::size_t last) {
  predict(task, first, last);
}

void predict_planes(const PredictTask<std::uint8_t>& task, std::size_t first, std::size_t last) {
  predict(task, first, last);
}

void predict_planes(const PredictTask<std::int8_t>& task, std::size_t first, std::size_t last) {
  predict(task, first, last);
}

}  // namespace spatialonnx::SPATIALONNX_ISA

#include "spatial_conv/padded_map.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "core/checked.h"

namespace spatialonnx {
namespace {

// A padded map is bounded by so many times the floats of X and Y, and these.
constexpr double kMostTimes = 8;
constexpr double kAlwaysFloats = 1 << 20;

}  // namespace

bool PaddedMap::is_bounded(const ConvAttributes& attributes, const ConvShape& shape) {
  // In floating point: a product of such numbers may not fit an integer.
  double area = 1;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const auto reach =
        static_cast<double>(shape.output[axis] - 1) * static_cast<double>(attributes.stride[axis]) +
        static_cast<double>(attributes.kernel[axis] - 1) *
            static_cast<double>(attributes.dilation[axis]) + 1;
    area *= std::max(reach, axis == 0 ? 0.0
                                      : static_cast<double>(shape.pad[1] + shape.input[1]));
  }
  const double channels = static_cast<double>(attributes.inputs * attributes.groups);
  const double x = channels * static_cast<double>(shape.input[0] * shape.input[1]);
  const double y =
      static_cast<double>(attributes.outputs) * static_cast<double>(shape.grid.map_size());
  return area * channels <= kMostTimes * (x + y) + kAlwaysFloats;
}

PaddedMap::PaddedMap(const ConvAttributes& attributes, const ConvShape& shape)
    : inputs(attributes.inputs), groups(attributes.groups) {
  PerAxis size;
  for (std::size_t axis = 0; axis < 2; ++axis) {
    size[axis] = (shape.output[axis] - 1) * attributes.stride[axis] +
                 (attributes.kernel[axis] - 1) * attributes.dilation[axis] + 1;
  }
  height = size[0];
  width = std::max(size[1], shape.pad[1] + shape.input[1]);
  used_rows = std::clamp<std::int64_t>(height - shape.pad[0], 0, shape.input[0]);
  map_floats = checked_product(checked_product(height, width), inputs);
  image_floats = checked_product(map_floats, groups);
}

namespace {

// Rows of a strip, which is what a worker converts at a time.
constexpr std::int64_t kStripRows = 4;

enum State : unsigned char { kAwaited, kTaken, kReady };

std::int64_t strips_of(const PaddedMap& map) { return (map.height + kStripRows - 1) / kStripRows; }

void zero_borders(const PaddedMap& map, const ConvShape& shape, MapRows to, std::int64_t first,
                  std::int64_t last) {
  const std::int64_t row_floats = map.width * map.inputs;
  const std::int64_t left = shape.pad[1] * map.inputs;
  const std::int64_t right = row_floats - left - shape.input[1] * map.inputs;
  for (std::int64_t row = first; row < last; ++row) {
    float* at = to.data + (row - to.first) * row_floats;
    const bool inside = row >= shape.pad[0] && row < shape.pad[0] + map.used_rows;
    std::fill_n(at, inside ? left : row_floats, 0.0f);
    if (inside) std::fill_n(at + row_floats - right, right, 0.0f);
  }
}

}  // namespace

void convert_rows(const ConvKernels& kernels, const PaddedMap& map, const ConvShape& shape,
                  const float* const* planes, MapRows to, std::int64_t first,
                  std::int64_t last) noexcept {
  zero_borders(map, shape, to, first, last);
  // The rows of a plane follow each other, so a vector of positions may cross from row to row.
  const std::int64_t width = shape.input[1];
  const std::int64_t begin = std::max<std::int64_t>(first - shape.pad[0], 0) * width;
  const std::int64_t end = std::min(last - shape.pad[0], map.used_rows) * width;
  for (std::int64_t q = begin; q < end;) {
    // Whole vectors of eight: the last one overlaps positions that are done, where there are any.
    int count = end - q >= 16 ? 16 : 8;
    q = std::max(begin, std::min(q, end - count));
    count = static_cast<int>(std::min<std::int64_t>(count, end - q));
    float* pixels[16];
    std::int64_t y = q / width;
    std::int64_t x = q % width;
    for (int i = 0; i < count; ++i) {
      pixels[i] = to.data +
                ((y + shape.pad[0] - to.first) * map.width + shape.pad[1] + x) * map.inputs;
      if (++x == width) {
        x = 0;
        ++y;
      }
    }
    kernels.gather(planes, map.inputs, q, count, pixels);
    q += count;
  }
}

std::int64_t SharedMaps::state_count(const PaddedMap& map, std::int64_t images) {
  return checked_product(checked_product(images, map.groups), strips_of(map));
}

void SharedMaps::begin(std::int64_t images) {
  std::fill_n(states_, state_count(map_, images), kAwaited);
}

MapRows SharedMaps::rows(const ConvKernels& kernels, const ConvShape& shape,
                         const float* const* planes, std::int64_t image, std::int64_t group,
                         std::int64_t first, std::int64_t last, std::size_t worker) const noexcept {
  const std::int64_t map_index = image * map_.groups + group;
  const MapRows whole{maps_ + map_index * map_.map_floats, 0};
  unsigned char* states = states_ + map_index * strips_of(map_);
  const std::int64_t begin = first / kStripRows;
  const std::int64_t count = (last + kStripRows - 1) / kStripRows - begin;
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t strip = begin + (static_cast<std::int64_t>(worker) + k) % count;
    const std::atomic_ref state(states[strip]);
    unsigned char seen = kAwaited;
    if (!state.compare_exchange_strong(seen, kTaken, std::memory_order_acquire)) continue;
    const std::int64_t row = strip * kStripRows;
    convert_rows(kernels, map_, shape, planes, whole, row, std::min(row + kStripRows, map_.height));
    state.store(kReady, std::memory_order_release);
  }
  for (std::int64_t strip = begin; strip < begin + count; ++strip) {
    const std::atomic_ref state(states[strip]);
    // Another thread is at it, and needs no other's help to finish.
    while (state.load(std::memory_order_acquire) != kReady) std::this_thread::yield();
  }
  return whole;
}

MapRows BandRows::rows(const ConvKernels& kernels, const ConvShape& shape,
                       const float* const* planes, std::int64_t map_number, std::int64_t first,
                       std::int64_t last) {
  const std::int64_t row_floats = map_.width * map_.inputs;
  std::int64_t have = first;
  if (map_number == map_number_ && first >= first_ && first < last_) {
    have = std::min(last, last_);
    std::copy(memory_ + (first - first_) * row_floats, memory_ + (have - first_) * row_floats,
              memory_);
  }
  const MapRows band{memory_, first};
  if (have < last) convert_rows(kernels, map_, shape, planes, band, have, last);
  map_number_ = map_number;
  first_ = first;
  last_ = last;
  return band;
}

}  // namespace spatialonnx

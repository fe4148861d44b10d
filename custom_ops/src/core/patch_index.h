// Where patches lie and what the rule makes of them, for kernels that run on a device: index maths
// and bits, no memory but what is handed in.
#pragma once

#include <string.h>

#include <cstdint>

#include "core/device.h"
#include "core/threshold_view.h"

namespace spatialonnx {

// Bits of float16: nothing is computed with it, so no arithmetic is needed.
struct Half {
  std::uint16_t bits;
};

// NaN is not zero; -0.0 is.
SPATIALONNX_BOTH inline bool is_zero(float value) { return value == 0.0f; }
SPATIALONNX_BOTH inline bool is_zero(Half value) { return (value.bits & 0x7fffu) == 0; }

SPATIALONNX_BOTH inline float to_float(float value) { return value; }
SPATIALONNX_BOTH inline float to_float(Half value) {
  const unsigned sign = (value.bits & 0x8000u) << 16;
  const unsigned exponent = value.bits >> 10 & 31u;
  const unsigned mantissa = value.bits & 0x3ffu;
  unsigned bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
  float number = 0;
  if (exponent == 0) {  // below the smallest normal number of float16, not of float32
    number = static_cast<float>(mantissa) / 16777216.0f;
    return sign != 0 ? -number : number;
  }
  memcpy(&number, &bits, sizeof number);
  return number;
}

SPATIALONNX_BOTH inline int count_bits(unsigned bits) {
#if defined(__CUDA_ARCH__)
  return __popc(bits);
#else
  return __builtin_popcount(bits);
#endif
}

// A map [N, C, H, W] and its patches, as PatchGrid has them.
struct DeviceMap {
  std::int64_t batch;
  std::int64_t channels;
  std::int64_t height;
  std::int64_t width;
  std::int32_t patch_size;  // 32 bits: devices divide by it

  SPATIALONNX_BOTH std::int64_t rows() const { return (height + patch_size - 1) / patch_size; }
  SPATIALONNX_BOTH std::int64_t columns() const { return (width + patch_size - 1) / patch_size; }
  SPATIALONNX_BOTH std::int64_t patches() const { return rows() * columns(); }
  SPATIALONNX_BOTH std::int64_t planes() const { return batch * channels; }
  SPATIALONNX_BOTH std::int64_t map_size() const { return height * width; }
};

// One patch of a plane.
struct PatchAt {
  std::int64_t row;  // of patches
  std::int64_t column;
  std::int64_t top;  // its first position
  std::int64_t left;
};

SPATIALONNX_BOTH inline PatchAt patch_at(const DeviceMap& map, std::int64_t patch) {
  const std::int64_t row = patch / map.columns();
  const std::int64_t column = patch % map.columns();
  return {row, column, row * map.patch_size, column * map.patch_size};
}

// The position of bit `bit` of a patch, in its plane. Only for bits that are inside.
SPATIALONNX_BOTH inline std::int64_t position_of(const DeviceMap& map, const PatchAt& at, int bit) {
  return (at.top + bit / map.patch_size) * map.width + at.left + bit % map.patch_size;
}

// The border rule: the bits of a patch whose positions are inside the map.
SPATIALONNX_BOTH inline unsigned inside_bits(const DeviceMap& map, const PatchAt& at) {
  const int p = map.patch_size;
  const int rows = map.height - at.top < p ? static_cast<int>(map.height - at.top) : p;
  const int columns = map.width - at.left < p ? static_cast<int>(map.width - at.left) : p;
  const unsigned row = (1u << columns) - 1;
  unsigned bits = 0;
  for (int r = 0; r < rows; ++r) bits |= row << (r * p);
  return bits;
}

// The bits of the positions inside the map that hold zero.
template <class T>
SPATIALONNX_BOTH unsigned zero_bits(const DeviceMap& map, const PatchAt& at, unsigned inside,
                                    const T* plane) {
  unsigned zeros = 0;
  for (int bit = 0; inside >> bit != 0; ++bit) {
    if ((inside >> bit & 1) != 0 && is_zero(plane[position_of(map, at, bit)])) zeros |= 1u << bit;
  }
  return zeros;
}

// The bits of the positions inside the map that count as zero in a probe: those that hold zero, or
// at most the channel's threshold where thresholds are given (NaN never is).
template <class T>
SPATIALONNX_BOTH unsigned quiet_bits(const DeviceMap& map, const PatchAt& at, unsigned inside,
                                     const T* plane, const ThresholdView& threshold,
                                     std::int64_t channel) {
  if (!threshold.given()) return zero_bits(map, at, inside, plane);
  const float most = threshold.at(channel);
  unsigned quiet = 0;
  for (int bit = 0; inside >> bit != 0; ++bit) {
    if ((inside >> bit & 1) != 0 && to_float(plane[position_of(map, at, bit)]) <= most) {
      quiet |= 1u << bit;
    }
  }
  return quiet;
}

// The prediction rule: the bits that are predicted. A patch without a probe inside the map is
// blind, and keeps everything.
SPATIALONNX_BOTH inline unsigned predicted_bits(unsigned pattern, unsigned inside, unsigned quiet) {
  const unsigned probes = pattern & inside;
  const bool predicts = probes != 0 && (probes & ~quiet) == 0;
  return predicts ? inside & ~pattern : 0;
}

}  // namespace spatialonnx

#include "snapea_conv/snapea_order.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "core/errors.h"

namespace spatialonnx {
namespace {

// By value; NaN comes last, so that the order is one whatever a model holds.
bool less(float a, float b) { return std::isnan(b) ? !std::isnan(a) : a < b; }

}  // namespace

SnapeaWeights::SnapeaWeights(const float* w, std::int64_t channels, std::int64_t taps)
    : channels_(channels),
      taps_(taps),
      ascending_(static_cast<std::size_t>(channels) * static_cast<std::size_t>(taps)) {
  for (std::int64_t c = 0; c < channels; ++c) {
    std::int32_t* own = ascending_.data() + c * taps;
    const float* weights = w + c * taps;
    std::iota(own, own + taps, 0);
    std::stable_sort(own, own + taps,
                     [&](std::int32_t a, std::int32_t b) { return less(weights[a], weights[b]); });
  }
}

SnapeaOrder SnapeaWeights::order(const float* w, const std::int64_t* heads,
                                 const SnapeaOrderBuffer& buffer) const {
  std::vector<char> taken(static_cast<std::size_t>(taps_));
  for (std::int64_t c = 0; c < channels_; ++c) {
    const std::int64_t head = heads == nullptr ? 0 : heads[c];
    if (head < 0 || head > taps_) {
      throw OpError("input heads holds " + std::to_string(head) + ", but takes 0 to " +
                    std::to_string(taps_) + ", the MACs of an output");
    }
    const float* weights = w + c * taps_;
    const std::int32_t* ascending = ascending_.data() + c * taps_;
    std::int32_t* next = buffer.taps + c * taps_;
    std::ranges::fill(taken, 0);
    for (std::int64_t group = 0; group < head; ++group) {
      // The ends of a sorted group have its largest magnitudes.
      const std::int32_t low = ascending[group * taps_ / head];
      const std::int32_t high = ascending[(group + 1) * taps_ / head - 1];
      const std::int32_t tap = std::fabs(weights[low]) >= std::fabs(weights[high]) ? low : high;
      taken[static_cast<std::size_t>(tap)] = 1;
      *next++ = tap;
    }
    for (const bool positive : {true, false}) {
      for (std::int32_t tap = 0; tap < taps_; ++tap) {
        if (!taken[static_cast<std::size_t>(tap)] && (weights[tap] > 0) == positive) *next++ = tap;
      }
      if (positive) {
        buffer.unchecked[c] = static_cast<std::int32_t>(next - (buffer.taps + c * taps_));
      }
    }
    buffer.head[c] = static_cast<std::int32_t>(head);
    for (std::int64_t i = c * taps_; i < (c + 1) * taps_; ++i) {
      buffer.weights[i] = weights[buffer.taps[i]];
    }
  }
  return {buffer.taps, buffer.weights, buffer.head, buffer.unchecked};
}

}  // namespace spatialonnx

// Weights that are fetched before they are needed.
#pragma once

#include <cstdint>

namespace spatialonnx {

// A queue of one stretch of weights, for the second-level cache.
//
// A block's weights fill about a third of that cache (plan.cc), so those of the next block come from
// the third level, and each first access would wait for it. The processor's own prefetcher does not
// help: filters are reached through pointers, and which ones is known only once the probes are. So
// the kernels fetch while they multiply, a line for every second vector: by the time a block is done,
// what the next one begins with (its panels, or its filters) has arrived, as have the filters of
// this block's second stage while its panels were multiplied.
class WeightPrefetch {
 public:
  void expect(const float* begin, std::int64_t floats) {
    next_ = reinterpret_cast<std::uintptr_t>(begin);
    left_ = floats;
  }

  // The address of the next `floats` floats to fetch; 0 where nothing is left. Up to `floats` behind
  // the end are fetched too, which harms nothing.
  std::uintptr_t take(std::int64_t floats) {
    if (left_ <= 0) return 0;
    const std::uintptr_t taken = next_;
    next_ += static_cast<std::uintptr_t>(floats) * sizeof(float);
    left_ -= floats;
    return taken;
  }

 private:
  std::uintptr_t next_ = 0;
  std::int64_t left_ = 0;
};

}  // namespace spatialonnx

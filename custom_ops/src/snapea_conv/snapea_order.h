// In which order SnaPEA takes the weights of a kernel (Akhlaghi et al., ISCA 2018, sections 3 and 4).
//
// Without a head: the positive weights, then the others, both in the order in which they lie in W.
// With a head of n: the weights sorted ascending are cut into n groups (group g begins at
// g * taps / n); the largest magnitude of each, in this order, comes first, then the rest as above.
#pragma once

#include <cstdint>
#include <vector>

namespace spatialonnx {

// All kernels of one layer, [C, taps] and [C].
struct SnapeaOrder {
  const std::int32_t* taps;
  const float* weights;
  const std::int32_t* head;
  const std::int32_t* unchecked;
};

// Memory for one.
struct SnapeaOrderBuffer {
  std::int32_t* taps;
  float* weights;
  std::int32_t* head;
  std::int32_t* unchecked;
};

// The kernels' weights, sorted once.
class SnapeaWeights {
 public:
  // w is [channels, taps]; it is not kept.
  SnapeaWeights(const float* w, std::int64_t channels, std::int64_t taps);

  std::int64_t channels() const { return channels_; }
  std::int64_t taps() const { return taps_; }

  // Writes the order for heads [C]; null: no head anywhere. Throws OpError where one is negative or
  // larger than `taps`. w are the same weights.
  SnapeaOrder order(const float* w, const std::int64_t* heads,
                    const SnapeaOrderBuffer& buffer) const;

 private:
  std::int64_t channels_;
  std::int64_t taps_;
  std::vector<std::int32_t> ascending_;  // [channels, taps]
};

}  // namespace spatialonnx

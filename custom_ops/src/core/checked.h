// Sizes that follow from what a model says: products that are checked.
#pragma once

#include <cstdint>

#include "core/errors.h"

namespace spatialonnx {

// The product; throws OpError where it overflows.
inline std::int64_t checked_product(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) {
    throw OpError("the work takes more memory than there can be");
  }
  return result;
}

}  // namespace spatialonnx

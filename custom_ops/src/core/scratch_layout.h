// Several arrays in one allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/checked.h"

namespace spatialonnx {

// Hands out parts of one allocation, one behind the other. With a null start it measures only: the
// same calls, made twice, first say how much memory is needed and then divide it.
class ScratchLayout {
 public:
  // Every part is aligned to this many bytes where `start` is: a cache line of the CPU, and what
  // CUDA's allocations are aligned to.
  static constexpr std::int64_t kHostAlignment = 64;
  static constexpr std::int64_t kDeviceAlignment = 256;

  ScratchLayout(std::byte* start, std::int64_t alignment) : start_(start), alignment_(alignment) {}

  // Null while measuring; never null otherwise, not even for a count of 0.
  template <class T>
  T* take(std::int64_t count) {
    T* part = start_ == nullptr ? nullptr : reinterpret_cast<T*>(start_ + used_);
    const std::int64_t bytes = checked_product(count, sizeof(T));
    if (__builtin_add_overflow(used_, bytes, &used_) ||
        __builtin_add_overflow(used_, alignment_ - 1, &used_)) {
      throw OpError("the work takes more memory than there can be");
    }
    used_ -= used_ % alignment_;
    return part;
  }

  // Bytes handed out so far.
  std::int64_t used() const { return used_; }

 private:
  std::byte* start_;
  std::int64_t alignment_;
  std::int64_t used_ = 0;
};

}  // namespace spatialonnx

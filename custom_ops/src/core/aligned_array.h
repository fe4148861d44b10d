// Zero-initialised memory aligned for vectors; in huge pages where it is large.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace spatialonnx {

struct FreeAligned {
  void operator()(void* memory) const;
};

// Throws std::bad_alloc.
std::unique_ptr<void, FreeAligned> allocate_aligned(std::size_t count, std::size_t size);

template <class T>
class AlignedArray {
 public:
  static_assert(std::is_trivially_copyable_v<T>);

  AlignedArray() = default;
  explicit AlignedArray(std::size_t count) : memory_(allocate_aligned(count, sizeof(T))) {}

  T* data() const { return static_cast<T*>(memory_.get()); }
  T& operator[](std::size_t i) const { return data()[i]; }

 private:
  std::unique_ptr<void, FreeAligned> memory_;
};

}  // namespace spatialonnx

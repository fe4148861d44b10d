#include "core/aligned_array.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace spatialonnx {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kLine = 64;

}  // namespace

void FreeAligned::operator()(void* memory) const { std::free(memory); }

std::unique_ptr<void, FreeAligned> allocate_aligned(std::size_t count, std::size_t size) {
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(std::max<std::size_t>(count, 1), size, &bytes) ||
      __builtin_add_overflow(bytes, kHugePage, &bytes)) {
    throw std::bad_alloc();
  }
  bytes -= kHugePage;
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kLine;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  std::unique_ptr<void, FreeAligned> memory(std::aligned_alloc(alignment, bytes));
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  // Only a hint: without it the array takes more entries of the address cache.
  if (alignment == kHugePage) madvise(memory.get(), bytes, MADV_HUGEPAGE);
#endif
  std::memset(memory.get(), 0, bytes);
  return memory;
}

}  // namespace spatialonnx

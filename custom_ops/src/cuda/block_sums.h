// Sums over the threads of one block. `room` holds one value per thread, in shared memory; the
// number of threads is a power of two, and all of them call.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace spatialonnx {

// The sum of all threads' values; valid in thread 0 alone. Thread 0 is also the only one that
// reads its result, so `room` may be used again at once.
template <class Block>
SPATIALONNX_KERNEL std::int64_t block_sum(const Block& block, std::int64_t* room,
                                          std::int64_t value) {
  const unsigned thread = block.thread();
  room[thread] = value;
  block.sync();
  for (unsigned half = block.threads() / 2; half > 0; half /= 2) {
    if (thread < half) room[thread] += room[thread + half];
    block.sync();
  }
  return room[0];
}

struct Prefix {
  std::int64_t before;  // the sum of the values of all threads before this one
  std::int64_t total;   // of all
};

// For every thread. `room` may be used again at once.
template <class Block>
SPATIALONNX_KERNEL Prefix block_prefix(const Block& block, std::int64_t* room,
                                       std::int64_t value) {
  const unsigned thread = block.thread();
  room[thread] = value;
  block.sync();
  for (unsigned step = 1; step < block.threads(); step *= 2) {
    const std::int64_t before = thread >= step ? room[thread - step] : 0;
    block.sync();
    room[thread] += before;
    block.sync();
  }
  const Prefix prefix{room[thread] - value, room[block.threads() - 1]};
  block.sync();
  return prefix;
}

}  // namespace spatialonnx

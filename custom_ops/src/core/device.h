// What lets one source serve nvcc and an ordinary C++ compiler.
//
// A kernel is a struct with a `run` for one thread: CUDA calls it from a __global__ function
// (cuda_launch.cuh), the tests call it thread by thread on the host (tests/custom_ops/harness).
// What `run` needs of its surroundings comes through a Block: the block's and the thread's number,
// their counts, and the barrier.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SPATIALONNX_BOTH __host__ __device__  // index maths and rules
#define SPATIALONNX_KERNEL __device__         // what runs once per thread
#else
#define SPATIALONNX_BOTH
#define SPATIALONNX_KERNEL
#endif

namespace spatialonnx {

// The outcome of a call of the CUDA runtime: a cudaError_t, as one may keep it where CUDA's headers
// are not known. `name` and `text` live as long as the process.
struct [[nodiscard]] CudaStatus {
  int code = 0;
  const char* name = "cudaSuccess";
  const char* text = "";
  const char* where = "";  // the kernel or the call

  bool failed() const { return code != 0; }
};

// Blocks of one launch: kernels walk over whatever is left in strides of the grid, so this bounds
// a launch, not the work.
inline constexpr std::int64_t kMostBlocks = 65535;

// A number of blocks for `items` at `per_block` each; 0 where there is nothing to do.
constexpr std::int64_t blocks_for(std::int64_t items, std::int64_t per_block) {
  return (items + per_block - 1) / per_block;
}

}  // namespace spatialonnx

// Launching the kernels of the *_device.h headers; for .cu files alone.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "core/device.h"

namespace spatialonnx {

inline CudaStatus cuda_status(cudaError_t error, const char* where) {
  return {static_cast<int>(error), cudaGetErrorName(error), cudaGetErrorString(error), where};
}

// A kernel's surroundings on the device.
struct CudaBlock {
  __device__ std::int64_t block() const { return blockIdx.x; }
  __device__ std::int64_t blocks() const { return gridDim.x; }
  __device__ unsigned thread() const { return threadIdx.x; }
  __device__ unsigned threads() const { return blockDim.x; }
  __device__ void sync() const { __syncthreads(); }
};

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads)
    run_kernel(const typename Kernel::Arguments arguments) {
  __shared__ typename Kernel::Shared shared;
  Kernel::run(CudaBlock{}, arguments, shared);
}

// Enqueues kernels on one stream, ORT's own; never waits.
class CudaLaunch {
 public:
  explicit CudaLaunch(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  template <class Kernel>
  CudaStatus operator()(Kernel, const typename Kernel::Arguments& arguments) const {
    const std::int64_t blocks = std::min(Kernel::blocks(arguments), kMostBlocks);
    if (blocks == 0) return {};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(Kernel::kThreads);
    config.stream = stream_;
    const cudaError_t error = cudaLaunchKernelEx(&config, run_kernel<Kernel>, arguments);
    return cuda_status(error, Kernel::kName);
  }

 private:
  cudaStream_t stream_;
};

}  // namespace spatialonnx

// Compiled and linked, never run: whether this nvcc does what the kernels need.
#include <cuda_runtime.h>

#include <algorithm>

template <class T>
__global__ void __launch_bounds__(32) fill(T* values) {
  __shared__ T shared[32];
  shared[threadIdx.x] = static_cast<T>(threadIdx.x);
  __syncthreads();
  values[threadIdx.x] = shared[31 - threadIdx.x];
}

int main() {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  int* values = nullptr;
  return cudaLaunchKernelEx(&config, fill<int>, values) == cudaSuccess ? 0 : 1;
}

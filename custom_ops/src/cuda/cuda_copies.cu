// Copies of masks to a device.
#include "cuda/cuda_kernels.h"
#include "cuda/cuda_launch.cuh"

namespace spatialonnx {

CudaStatus copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return cuda_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, on),
                     "cudaMemcpyAsync");
}

CudaStatus copy_to_device_now(void* to, const void* from, std::size_t bytes) {
  const CudaStatus status = copy_to_device(to, from, bytes, nullptr);
  if (status.failed()) return status;
  return cuda_status(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
}

}  // namespace spatialonnx

// The launcher of SpatialConv, and the copy of masks.
#include "cuda/cuda_kernels.h"
#include "cuda/cuda_launch.cuh"

namespace spatialonnx {

CudaStatus conv_cuda(const ConvArguments& arguments, void* stream) {
  return launch_conv(CudaLaunch(stream), arguments);
}

CudaStatus copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  return cuda_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, on),
                     "cudaMemcpyAsync");
}

}  // namespace spatialonnx

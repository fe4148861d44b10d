// The launcher of SpatialConv.
#include "cuda/cuda_kernels.h"
#include "cuda/cuda_launch.cuh"

namespace spatialonnx {

CudaStatus conv_cuda(const ConvArguments& arguments, void* stream) {
  return launch_conv(CudaLaunch(stream), arguments);
}

}  // namespace spatialonnx

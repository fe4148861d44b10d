// The launcher of PatchCodes.
#include "cuda/cuda_kernels.h"
#include "cuda/cuda_launch.cuh"

namespace spatialonnx {

CudaStatus codes_cuda(const CodesArguments& arguments, void* stream) {
  return launch_codes(CudaLaunch(stream), arguments);
}

}  // namespace spatialonnx

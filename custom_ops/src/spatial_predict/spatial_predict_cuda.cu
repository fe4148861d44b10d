// The launchers of SpatialPredict.
#include "cuda/cuda_kernels.h"
#include "cuda/cuda_launch.cuh"

namespace spatialonnx {

CudaStatus predict_cuda(const PredictArguments<float>& arguments, void* stream) {
  return launch_predict(CudaLaunch(stream), arguments);
}

CudaStatus predict_cuda(const PredictArguments<Half>& arguments, void* stream) {
  return launch_predict(CudaLaunch(stream), arguments);
}

}  // namespace spatialonnx

// The launchers of CUDA's ops, emulated: what stream they are given does not matter here.
//
// Environment variable SPATIALONNX_EMULATED_FAILURE names a kernel, or cudaMemcpyAsync, that fails.
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "cuda/cuda_kernels.h"
#include "emulation.h"

namespace spatialonnx {
namespace {

CudaStatus planned(const char* where) {
  const char* fails = std::getenv("SPATIALONNX_EMULATED_FAILURE");
  if (fails == nullptr || std::string_view(fails) != where) return {};
  return {700, "cudaErrorIllegalAddress", "an illegal memory access was encountered", where};
}

// Sound kernels on few blocks, so that they walk over the grid.
class Emulated {
 public:
  template <class Kernel>
  CudaStatus operator()(Kernel kernel, const typename Kernel::Arguments& arguments) const {
    const CudaStatus status = planned(Kernel::kName);
    if (status.failed()) return status;
    harness::Record record;
    return harness::Launch(record, harness::Order::shuffled, 4)(kernel, arguments);
  }
};

}  // namespace

CudaStatus predict_cuda(const PredictArguments<float>& arguments, void*) {
  return launch_predict(Emulated{}, arguments);
}

CudaStatus predict_cuda(const PredictArguments<Half>& arguments, void*) {
  return launch_predict(Emulated{}, arguments);
}

CudaStatus codes_cuda(const CodesArguments& arguments, void*) {
  return launch_codes(Emulated{}, arguments);
}

CudaStatus conv_cuda(const ConvArguments& arguments, void*) {
  return launch_conv(Emulated{}, arguments);
}

CudaStatus copy_to_device(void* to, const void* from, std::size_t bytes, void*) {
  const CudaStatus status = planned("cudaMemcpyAsync");
  if (!status.failed()) std::memcpy(to, from, bytes);
  return status;
}

CudaStatus copy_to_device_now(void* to, const void* from, std::size_t bytes) {
  return copy_to_device(to, from, bytes, nullptr);
}

}  // namespace spatialonnx

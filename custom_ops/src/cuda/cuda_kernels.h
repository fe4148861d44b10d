// The launchers: what the CUDA ops call. Each enqueues on `stream`, a cudaStream_t, and returns at
// once; a failure is the call's own, or one of something that the stream did before.
#pragma once

#include <cstddef>

#include "patch_codes/patch_codes_device.h"
#include "spatial_conv/spatial_conv_device.h"
#include "spatial_predict/spatial_predict_device.h"

namespace spatialonnx {

[[nodiscard]] CudaStatus predict_cuda(const PredictArguments<float>& arguments, void* stream);
[[nodiscard]] CudaStatus predict_cuda(const PredictArguments<Half>& arguments, void* stream);
[[nodiscard]] CudaStatus codes_cuda(const CodesArguments& arguments, void* stream);
[[nodiscard]] CudaStatus conv_cuda(const ConvArguments& arguments, void* stream);

// Copies to device memory. `from` has to be pageable memory: CUDA has taken what it needs of it
// when this returns.
[[nodiscard]] CudaStatus copy_to_device(void* to, const void* from, std::size_t bytes,
                                        void* stream);

// The same, and waits until it is done: every stream may read what was copied.
[[nodiscard]] CudaStatus copy_to_device_now(void* to, const void* from, std::size_t bytes);

}  // namespace spatialonnx

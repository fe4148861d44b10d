// Every op of the library, one line each. registration.cc registers this list.
#pragma once

#include "ort/op.h"

namespace spatialonnx {

inline constexpr const char* kDomain = "spatialonnx";

// A library for tests: the ops of CUDA in place of the CPU's, on the CPU, their kernels emulated.
#if SPATIALONNX_EMULATE_CUDA
inline constexpr const char* kCudaProvider = nullptr;
#else
inline constexpr const char* kCudaProvider = "CUDAExecutionProvider";
#endif

extern const OpDefinition kSpatialConv;
extern const OpDefinition kSpatialQConv;
extern const OpDefinition kSpatialPredict;
extern const OpDefinition kSpatialPredictUint8;
extern const OpDefinition kSpatialPredictInt8;
extern const OpDefinition kPatchCodes;
extern const OpDefinition kPatchCodesUint8;
extern const OpDefinition kPatchCodesInt8;
extern const OpDefinition kSnapeaConv;
#if SPATIALONNX_WITH_CUDA
extern const OpDefinition kSpatialConvCuda;
extern const OpDefinition kSpatialPredictCuda;
extern const OpDefinition kSpatialPredictHalfCuda;
extern const OpDefinition kPatchCodesCuda;
#endif

inline constexpr const OpDefinition* kOps[] = {
#if !SPATIALONNX_EMULATE_CUDA
    &kSpatialConv,
    &kSpatialQConv,
    &kSpatialPredict,
    &kSpatialPredictUint8,
    &kSpatialPredictInt8,
    &kPatchCodes,
    &kPatchCodesUint8,
    &kPatchCodesInt8,
    &kSnapeaConv,
#endif
#if SPATIALONNX_WITH_CUDA
    &kSpatialConvCuda,
    &kSpatialPredictCuda,
    &kSpatialPredictHalfCuda,
    &kPatchCodesCuda,
#endif
};

}  // namespace spatialonnx

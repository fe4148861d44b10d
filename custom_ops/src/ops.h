// Every op of the library, one line each. registration.cc registers this list.
#pragma once

#include "op.h"

namespace spatialonnx {

inline constexpr const char* kDomain = "spatialonnx";

extern const OpDefinition kSpatialConv;
extern const OpDefinition kSpatialPredict;
extern const OpDefinition kPatchCodes;
extern const OpDefinition kSnapeaConv;
#if SPATIALONNX_WITH_CUDA
extern const OpDefinition kSpatialConvCuda;
extern const OpDefinition kSpatialPredictCuda;
extern const OpDefinition kSpatialPredictHalfCuda;
extern const OpDefinition kPatchCodesCuda;
#endif

inline constexpr const OpDefinition* kOps[] = {
    &kSpatialConv,
    &kSpatialPredict,
    &kPatchCodes,
    &kSnapeaConv,
#if SPATIALONNX_WITH_CUDA
    &kSpatialConvCuda,
    &kSpatialPredictCuda,
    &kSpatialPredictHalfCuda,
    &kPatchCodesCuda,
#endif
};

}  // namespace spatialonnx
